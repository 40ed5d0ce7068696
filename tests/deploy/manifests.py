"""The manifests of deploy/k8s as plain values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
K8S = REPOSITORY / "deploy/k8s"
FILES = sorted(K8S.glob("*.yaml"))
DOCUMENTS: list[tuple[str, Any]] = [
    (path.name, document) for path in FILES for document in yaml.safe_load_all(path.read_text())
]
CONFIG: dict[str, str] = next(document["data"] for name, document in DOCUMENTS if document["kind"] == "ConfigMap")
SECRETS: dict[str, str] = next(document["stringData"] for name, document in DOCUMENTS if document["kind"] == "Secret")
WORKLOADS = [document for _, document in DOCUMENTS if document["kind"] in ("Deployment", "StatefulSet", "Job")]
OURS = ["planning", "orchestrator", "context", "ray-executor", "monitoring", "nats-streams"]


def kind(name: str) -> list[Any]:
    return [document for _, document in DOCUMENTS if document["kind"] == name]


def named(kinds: str, name: str) -> Any:
    return next(document for document in kind(kinds) if document["metadata"]["name"] == name)


def pod(workload: Any) -> Any:
    return workload["spec"]["template"]["spec"]


def containers(workload: Any) -> list[Any]:
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def env(workload: Any) -> dict[str, Any]:
    """Each variable with its entry."""
    return {entry["name"]: entry for container in containers(workload) for entry in container.get("env", [])}


def value(entry: Any, entries: dict[str, Any]) -> str:
    """What a container sees: references resolved, and $(NAME) expanded as the kubelet does."""
    if "value" in entry:
        text = str(entry["value"])
        for name, other in entries.items():
            if f"$({name})" in text:
                text = text.replace(f"$({name})", value(other, entries))
        return text
    source = entry["valueFrom"]
    if "configMapKeyRef" in source:
        return CONFIG[source["configMapKeyRef"]["key"]]
    return "Example0Example0Example0" if "secretKeyRef" in source else "pod-name"


def environment(workload: Any) -> dict[str, str]:
    entries = env(workload)
    return {name: value(entry, entries) for name, entry in entries.items()}


def walk(node: Any) -> Iterator[Any]:
    """Every value in a document, mappings and lists included."""
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(inner)
