"""The manifests against the Kubernetes schemas, against each other, and against the services' settings."""

import importlib
import re
from typing import Any

import kubernetes_validate
import pytest
from manifests import (
    CONFIG,
    DOCUMENTS,
    FILES,
    K8S,
    OURS,
    REPOSITORY,
    SECRETS,
    WORKLOADS,
    containers,
    env,
    environment,
    kind,
    named,
    pod,
    walk,
)
from pydantic import SecretStr

from fleet_wire import rpc
from fleet_wire.settings import load

SETTINGS = {
    "planning": "fleet.planning.settings:PlanningSettings",
    "orchestrator": "fleet.orchestrator.settings:OrchestratorSettings",
    "context": "fleet.context.settings:ContextSettings",
    "monitoring": "fleet.monitoring.settings:MonitoringSettings",
    "nats-streams": "fleet_wire.settings:CommonSettings",
}
HELPERS = {"NATS_ADDRESS", "NATS_PASSWORD", "VALKEY_ADDRESS", "VALKEY_PASSWORD"}
PORT_OF = {
    **{name: f"{name.upper().replace('-', '_')}_PORT" for name in OURS if name != "nats-streams"},
    "client": "NATS_PORT",
    "cluster": "NATS_CLUSTER_PORT",
    "monitor": "NATS_MONITOR_PORT",
    "bolt": "NEO4J_PORT",
    "resp": "VALKEY_PORT",
}


def settings_model(name: str) -> Any:
    module, model = SETTINGS[name].split(":")
    return getattr(importlib.import_module(module), model)


def names(document: Any) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


@pytest.mark.parametrize(("file", "document"), DOCUMENTS, ids=[f"{file}:{names(doc)}" for file, doc in DOCUMENTS])
def test_every_document_is_valid_for_the_newest_kubernetes(file: str, document: Any) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_files_have_their_names() -> None:
    assert {path.name for path in FILES} >= {
        "00-namespace.yaml",
        "01-config.yaml",
        "02-secrets.example.yaml",
        "10-planning.yaml",
        "11-orchestrator-service.yaml",
        "12-context.yaml",
        "13-ray-executor.yaml",
        "14-monitoring.yaml",
        "15-nats-streams.yaml",
    }


def test_everything_is_in_the_namespace_and_named_once() -> None:
    for _, document in DOCUMENTS:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "swe-ai-fleet", names(document)
    found = [names(document) for _, document in DOCUMENTS]
    assert len(found) == len(set(found))


def test_names_and_labels_operators_search_for() -> None:
    for name in OURS:
        workload = next(one for one in WORKLOADS if one["metadata"]["name"] == name)
        assert workload["metadata"]["labels"]["app"] == name
        assert workload["spec"]["template"]["metadata"]["labels"]["app"] == name
    assert CONFIG["RAY_EXECUTOR_ADDRESS"] == "ray-executor.swe-ai-fleet.svc.cluster.local:50056"


def test_services_have_no_underscore_and_select_pods_that_listen() -> None:
    for service in kind("Service"):
        assert "_" not in service["metadata"]["name"]
        [workload] = [
            one
            for one in WORKLOADS
            if service["spec"]["selector"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        listens = {port["name"]: port["containerPort"] for box in containers(workload) for port in box.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert listens[port["targetPort"]] == port["port"]


def test_every_port_is_that_of_the_config() -> None:
    seen = set()
    for workload in WORKLOADS:
        for box in containers(workload):
            for port in box.get("ports", []):
                key = PORT_OF[workload["metadata"]["name"] if port["name"] in ("grpc", "http") else port["name"]]
                assert str(port["containerPort"]) == CONFIG[key], names(workload)
                seen.add(key)
            own = {port["containerPort"] for port in box.get("ports", [])} | {
                port["name"] for port in box.get("ports", [])
            }
            for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
                for how in box.get(probe, {}).values():
                    if isinstance(how, dict):
                        assert how["port"] in own, (names(workload), probe)
    assert seen == {key for key in CONFIG if key.endswith("_PORT")}


def test_every_address_of_the_fleet_is_a_service_and_its_port() -> None:
    services = {service["metadata"]["name"]: service for service in kind("Service")}
    for key, text in CONFIG.items():
        for host, port in re.findall(r"([a-z0-9.-]+)\.swe-ai-fleet\.svc\.cluster\.local:(\d+)", text):
            ports = {one["port"] for one in services[host.split(".")[-1]]["spec"]["ports"]}
            assert int(port) in ports, key
        if key.endswith("_ADDRESS") and key != "RAY_ADDRESS":
            assert text.endswith(":" + CONFIG[key.replace("_ADDRESS", "_PORT")])
    assert CONFIG["NEO4J_URI"].endswith(":" + CONFIG["NEO4J_PORT"])


def test_addresses_stand_in_the_config_and_nowhere_else() -> None:
    pattern = re.compile(r"[a-z][a-z0-9.-]*:\d{2,5}\b|\b\d+\.\d+\.\d+\.\d+\b|cluster\.local|\.svc\b")
    images = {box["image"] for workload in WORKLOADS for box in containers(workload)}
    for name, document in DOCUMENTS:
        texts = {node for node in walk(document) if isinstance(node, str)} - images
        if name != "01-config.yaml":
            assert [text for text in texts if pattern.search(text)] == [], name


def test_every_reference_to_config_and_secrets_leads_somewhere() -> None:
    used = set()
    for workload in WORKLOADS:
        for name, entry in env(workload).items():
            source = entry.get("valueFrom", {})
            if "configMapKeyRef" in source:
                assert source["configMapKeyRef"]["name"] == "fleet-config"
                assert source["configMapKeyRef"]["key"] in CONFIG, name
                used.add(source["configMapKeyRef"]["key"])
            if "secretKeyRef" in source:
                assert source["secretKeyRef"]["name"] == "fleet-secrets"
                assert source["secretKeyRef"]["key"] in SECRETS, name
            for inner in re.findall(r"\$\((\w+)\)", entry.get("value", "")):
                order = list(env(workload))
                assert order.index(inner) < order.index(name), "the kubelet expands only what stands before"
    unused = set(CONFIG) - used - {"nats.conf"} - {key for key in CONFIG if key.endswith("_PORT")}
    assert unused == set(), "nothing reads it"


@pytest.mark.parametrize("name", SETTINGS)
def test_the_environment_of_each_service_is_what_its_settings_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = next(one for one in WORKLOADS if one["metadata"]["name"] == name)
    given = environment(workload)
    model = settings_model(name)
    fields = {field.upper() for field in model.model_fields}
    assert set(given) - fields - HELPERS == set(), "no service reads it"
    local = {
        field.upper()
        for field, info in model.model_fields.items()
        for default in [info.default.get_secret_value() if isinstance(info.default, SecretStr) else info.default]
        if isinstance(default, str) and re.search(r"127\.0\.0\.1|localhost", default)
    }
    assert local <= set(given), "its default is this machine"
    for field in fields:
        monkeypatch.delenv(field, raising=False)
    for key, text in given.items():
        monkeypatch.setenv(key, text)
    settings = load(model)
    if hasattr(settings, "grpc_port"):
        assert str(settings.grpc_port) == CONFIG[PORT_OF[name]]
    assert settings.nats_url == f"nats://fleet:Example0Example0Example0@{CONFIG['NATS_ADDRESS']}"


def test_the_executor_is_told_what_its_settings_read() -> None:
    source = (K8S.parents[1] / "packages/executor/src/fleet_executor/settings.py").read_text()
    given = set(environment(named("Deployment", "ray-executor"))) - HELPERS - {"NATS_URL", "LOG_LEVEL", "LOG_FORMAT"}
    for name in given:
        assert re.search(rf"^    {name.lower()}: ", source, re.MULTILINE), name
    assert {"RAY_ADDRESS", "VLLM_URL", "GRPC_PORT", "BIND_HOST"} <= given


def test_only_the_executor_is_told_where_ray_is() -> None:
    told = [workload["metadata"]["name"] for workload in WORKLOADS if "RAY_ADDRESS" in env(workload)]
    assert told == ["ray-executor"]
    assert "RAY_EXECUTOR_ADDRESS" in env(named("Deployment", "orchestrator"))


def test_no_secret_of_the_example_works() -> None:
    [secret] = kind("Secret")
    assert secret["metadata"]["name"] != "fleet-secrets"
    assert set(secret["stringData"].values()) == {""}


@pytest.mark.parametrize("workload", WORKLOADS, ids=names)
def test_pods_are_as_small_a_target_as_can_be(workload: Any) -> None:
    spec = pod(workload)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "variables of the cluster would be read as settings"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for box in containers(workload):
        assert box["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(box["resources"]) == {"requests", "limits"}
        assert set(box["resources"]["limits"]) == {"cpu", "memory"}
        assert ":" in box["image"] and not box["image"].endswith(":latest")
        mounts = {mount["name"] for mount in box.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        assert mounts <= volumes | claims


def test_the_neo4j_is_of_the_release_that_the_tests_run_on() -> None:
    [image] = {
        box["image"] for workload in WORKLOADS for box in containers(workload) if box["image"].startswith("neo4j:")
    }
    release = image.removeprefix("neo4j:").removesuffix("-community")
    assert re.search(
        rf"<version>{re.escape(release)}\.\d+</version>", (REPOSITORY / "requirements/neo4j-pom.xml").read_text()
    )


@pytest.mark.parametrize("name", [name for name in OURS if name != "nats-streams"])
def test_readiness_and_life_are_asked_for_apart(name: str) -> None:
    [box] = containers(named("Deployment", name))
    if name == "monitoring":
        assert box["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert box["livenessProbe"]["httpGet"]["path"] == "/healthz"
    else:
        assert "service" not in box["readinessProbe"]["grpc"]
        assert box["livenessProbe"]["grpc"]["service"] == rpc.ALIVE


def test_what_runs_more_than_once_is_drained_one_by_one() -> None:
    budgets = {budget["metadata"]["name"] for budget in kind("PodDisruptionBudget")}
    several = {one["metadata"]["name"] for one in WORKLOADS if one["spec"].get("replicas", 1) > 1}
    assert budgets == several == {"nats", "planning", "orchestrator", "context"}


def test_nats_runs_on_three_nodes() -> None:
    nats = named("StatefulSet", "nats")
    assert nats["spec"]["replicas"] == 3
    [rule] = pod(nats)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    job = named("Job", "nats-streams")
    assert containers(job)[0]["args"][:5] == ["fleet", "streams", "apply", "--replicas", "3"]


CALLS = {
    "planning": {"orchestrator", "monitoring"},
    "orchestrator": {"monitoring"},
    "context": {"orchestrator", "monitoring"},
    "ray-executor": {"orchestrator", "monitoring"},
    "neo4j": {"planning", "context", "monitoring"},
    "valkey": {"context", "monitoring"},
}


def test_only_those_may_call_who_are_told_the_address() -> None:
    """A policy lets in exactly the pods whose environment holds the address."""
    for name, callers in CALLS.items():
        [rule] = named("NetworkPolicy", name)["spec"]["ingress"]
        [source] = rule["from"]
        [expression] = source["podSelector"]["matchExpressions"]
        assert set(expression["values"]) == callers
        key = {"neo4j": "NEO4J_URI"}.get(name, f"{name.upper().replace('-', '_')}_ADDRESS")
        told = {one["metadata"]["name"] for one in WORKLOADS if key in env(one)}
        assert told == callers
    assert named("NetworkPolicy", "deny-all")["spec"]["ingress"] == []
