"""The example of a Ray worker's pod: valid, and open by no more than the sandbox needs."""

import kubernetes_validate
import yaml
from manifests import K8S

POD = yaml.safe_load((K8S.parent / "ray-worker.example.yaml").read_text())


def test_it_is_valid_for_the_newest_kubernetes() -> None:
    kubernetes_validate.validate(POD, kubernetes_validate.latest_version(), strict=True)


def test_it_opens_what_the_sandbox_needs_and_no_more() -> None:
    spec = POD["template"]["spec"]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }
