"""Settings, the names of pools, and the sentence about versions."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_executor import config, versions
from fleet_executor.settings import ExecutorSettings
from fleet_executor.versions import Versions
from fleet_wire.errors import Invalid
from fleet_wire.settings import load

OURS = Versions(ray="2.60.0", python="3.13.0")
REFUSAL = """Version mismatch: The cluster was started with:
    Ray: 2.49.2
    Python: 3.9.18
This process on node 192.0.2.2 was started with:
    Ray: {ray}
    Python: {python}
"""


@pytest.mark.parametrize("value", ["local", "", "127.0.0.1", "http://x:1", "ray://x", "x:99999"])
def test_an_address_that_would_start_a_cluster_or_leads_nowhere_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    with pytest.raises(Invalid, match="RAY_ADDRESS"):
        load(ExecutorSettings)


@pytest.mark.parametrize("value", ["auto", "127.0.0.1:6379", "ray://head.ray.svc:10001", "[::1]:6379"])
def test_addresses_of_running_clusters_are_taken(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert load(ExecutorSettings).ray_address == value


@pytest.mark.parametrize("value", ["127.0.0.1:8000", "ftp://x", "http://user:word@x", "http://x/?a=b"])
def test_a_bad_model_address_is_refused_and_not_repeated(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_URL", value)
    with pytest.raises(Invalid, match="VLLM_URL") as caught:
        load(ExecutorSettings)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("value", ["http://x:8000", "http://x:8000/", "http://x:8000/v1", "http://x:8000/v1/"])
def test_the_model_address_may_end_in_its_version(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_URL", value)
    assert load(ExecutorSettings).worker_config().vllm_url == "http://x:8000"


def test_a_bad_setting_ends_the_process_with_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fleet_executor"],
        env={"PATH": "/usr/bin", "POOL_SIZE": "none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "POOL_SIZE" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_other_versions_make_a_sentence_that_says_what_to_install() -> None:
    sentence = versions.mismatch(REFUSAL.format(ray="2.60.0", python="3.13.0"), "head:6379", OURS)
    assert sentence == (
        "the cluster at head:6379 runs Ray 2.49.2 on Python 3.9.18, this executor runs Ray 2.60.0 on Python 3.13.0: install "
        "ray==2.49.2 on Python 3.9 for the executor (build arguments PYTHON and RAY of its image)"
    )


def test_where_only_the_patch_release_of_python_differs_it_is_named_whole() -> None:
    ours = Versions(ray="2.49.2", python="3.9.20")
    sentence = versions.mismatch(REFUSAL.format(ray="2.49.2", python="3.9.20"), "head:6379", ours)
    assert sentence is not None and "ray==2.49.2 on Python 3.9.18 for" in sentence


def test_other_errors_are_no_mismatch() -> None:
    assert versions.mismatch("Could not find any running Ray instance.", "auto", OURS) is None


def test_a_pool_has_another_name_for_other_code_or_settings() -> None:
    one, two = config.WorkerConfig(nats_url="a", vllm_url="b"), config.WorkerConfig(nats_url="a", vllm_url="c")
    names = {config.pool_hash("x", one), config.pool_hash("y", one), config.pool_hash("x", two)}
    assert len(names) == 3 and all(len(name) == 12 for name in names)
    assert config.pool_hash("x", one) in names
    seconds = [config.WorkerConfig(nats_url="a", vllm_url="b", idle_seconds=value) for value in (7, 7.0)]
    assert len({config.pool_hash("x", each) for each in seconds}) == 1


def test_the_hash_of_the_code_changes_with_any_source_file(tmp_path: Path) -> None:
    for folder in config.code_folders():
        shutil.copytree(folder, tmp_path / Path(folder).name)

    def hashed() -> str:
        code = "from fleet_executor.config import code_hash; print(code_hash())"
        env = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert hashed().strip() == config.code_hash()
    with (tmp_path / "fleet_wire" / "events.py").open("a") as source:
        source.write("# more\n")
    assert hashed().strip() != config.code_hash()
