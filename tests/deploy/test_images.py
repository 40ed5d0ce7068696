"""What the images are built from. Building them needs a container engine; what can be checked without one is."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from manifests import REPOSITORY, WORKLOADS, containers

from fleet.local.serve import SERVICES

DOCKER = REPOSITORY / "deploy/docker"
IMAGES = sorted(DOCKER.glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    return [
        (line.split()[0], line.split(None, 1)[1]) for line in text.replace("\\\n", " ").splitlines() if line.strip()
    ]


def lock_for(python: str, ray: str) -> "subprocess.CompletedProcess[str]":
    command = ["sh", str(DOCKER / "executor-lock"), python, ray, "requirements"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_there_is_one_image_for_each_side() -> None:
    assert [path.name for path in IMAGES] == ["control-plane.Dockerfile", "executor.Dockerfile"]


@pytest.mark.parametrize(
    ("image", "arguments"),
    [("control-plane", {"PYTHON": "3.13"}), ("executor", {"PYTHON": "3.9", "RAY": "2.49.2"})],
)
def test_build_arguments_have_the_reference_as_default(image: str, arguments: dict[str, str]) -> None:
    given = [rest for word, rest in instructions(DOCKER / f"{image}.Dockerfile") if word == "ARG"]
    assert dict(rest.split("=") for rest in given if "=" in rest) == arguments


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_images_are_pinned_small_and_without_root(path: Path) -> None:
    lines = instructions(path)
    assert [rest.split()[0] for word, rest in lines if word == "FROM"] == ["python:${PYTHON}-slim"] * 2
    assert [rest for word, rest in lines if word == "USER"] == ["10001:10001"]
    assert "ENTRYPOINT" not in [word for word, _ in lines], "the manifests name the command"
    for word, rest in lines:
        if word == "RUN":
            for install in re.findall(r"pip install [^&]*", rest):
                assert "--require-hashes" in install or "--no-deps /wheels/" in install
                assert "--no-cache-dir" in install
        if word in ("ENV", "ARG"):
            assert not re.search(r"PASSWORD|TOKEN|SECRET|CREDS", rest)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_what_is_copied_is_there_and_in_the_build_context(path: Path) -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for word, rest in instructions(path):
        if word == "COPY" and "--from=" not in rest:
            for source in rest.split()[:-1]:
                assert list(REPOSITORY.glob(source)), source
                assert any(source.startswith(name) for name in kept), source


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_the_pin_of_what_builds_our_packages_is_found(path: Path) -> None:
    [command] = [rest for word, rest in instructions(path) if word == "RUN" and rest.startswith("awk")]
    awk, lock = re.search(r"^(awk '[^']*') (\S+)", command).groups()  # type: ignore[union-attr]
    pin = subprocess.run(
        ["sh", "-c", f"{awk} {lock}"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert pin.startswith("setuptools==")
    assert pin.count("==") == 1
    assert "--hash=sha256:" in pin
    assert not pin.rstrip().endswith("\\")


@pytest.mark.parametrize(
    ("python", "ray", "lock"),
    [("3.9", "2.49.2", "executor-py39"), ("3.9.18", "2.49.2", "executor-py39"), ("3.13", "2.60.0", "executor-py310")],
)
def test_the_lock_file_is_that_of_the_clusters_python_and_ray(python: str, ray: str, lock: str) -> None:
    done = lock_for(python, ray)
    assert (done.returncode, done.stdout.strip()) == (0, f"requirements/{lock}.lock")


@pytest.mark.parametrize(
    ("python", "ray", "sentence"),
    [
        (
            "3.9",
            "2.40.0",
            r"executor-py39.lock has Ray 2.49.2: write ray\[default\]==2.40.0 into requirements/executor-py39.in",
        ),
        ("3.12", "2.49.2", "executor-py310.lock has Ray"),
        ("3.8", "2.49.2", "PYTHON must be 3.9 to 3.13, not 3.8"),
        ("3.14", "2.60.0", "PYTHON must be 3.9 to 3.13, not 3.14"),
    ],
)
def test_another_ray_ends_the_build_with_what_to_change(python: str, ray: str, sentence: str) -> None:
    done = lock_for(python, ray)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(sentence, done.stderr)


@pytest.mark.parametrize("package", ["wire", "fleet", "executor"])
def test_a_wheel_holds_every_file_of_its_package(package: str, tmp_path: Path) -> None:
    """An editable install hides what the images would lack."""
    source = tmp_path / package
    shutil.copytree(
        REPOSITORY / "packages" / package,
        source,
        ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "tests", "build"),
    )
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=source, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    root = source / "src"
    assert packed == {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "egg-info" not in str(path)
    }


def test_the_manifests_run_these_images_by_commands_they_have() -> None:
    used = {box["image"].split(":")[0]: box for one in WORKLOADS for box in containers(one) if "fleet/" in box["image"]}
    assert set(used) == {"swe-ai-fleet/control-plane", "swe-ai-fleet/executor"}
    for one in WORKLOADS:
        for box in containers(one):
            if box["image"].startswith("swe-ai-fleet/"):
                assert box["args"][0] in ("fleet", "fleet-executor")
                if box["args"][1:2] == ["serve"]:
                    assert box["args"][2] in SERVICES
    assert os.access(DOCKER / "executor-lock", os.X_OK)
