"""Pod Security `restricted`, as the API server's own admission sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.kubectl import CommandFailed, Kubectl, wait_for

# Labels of a namespace that takes no other pods.
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def assert_restricted(kubectl: Kubectl, pod: dict[str, Any], namespace: str) -> None:
    """`namespace`, which takes no other pods, would take one like this, and would not take it with one right more. Nothing is made."""
    spec = {key: value for key, value in pod["spec"].items() if key not in ("nodeName", "serviceAccount", "serviceAccountName")}
    copy = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "copy", "namespace": namespace}, "spec": spec}
    wait_for(lambda: kubectl.get("serviceaccount", "default", namespace), 30, "service account")
    kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(copy))
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(CommandFailed, match="restricted"):
        kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(copy))
