"""Kubernetes' metrics-server beside a local cluster: what a HorizontalPodAutoscaler asks for the use of processors.

A process of this machine behind the API server's aggregation layer, started when somebody needs it.
"""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

from cluster import network, ports
from cluster.binaries import program
from cluster.control_plane import ControlPlane

NAME = "metrics-server"
NAMESPACE = "kube-system"
USER = "system:metrics-server"
START_SECONDS = 90


def start(plane: ControlPlane) -> None:
    """Running, and asked by the API server for `metrics.k8s.io`; nothing to do where it is already."""
    if any(process.name == NAME and process.alive() for process in plane.processes.running):
        return
    port = ports.free(1)[0]
    plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(_objects(plane, port)))
    pair = plane.authority.issue(NAME, hosts=(f"{NAME}.{NAMESPACE}.svc", network.ADDRESS))
    kubeconfig = plane.credentials(USER, file=f"{NAME}-client")
    command = [
        program(NAME),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={network.ADDRESS}",
        f"--secure-port={port}",
        f"--tls-cert-file={pair.certificate}",
        f"--tls-private-key-file={pair.key}",
        f"--kubelet-certificate-authority={plane.authority.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-use-node-status-port",
        # The least that it takes.
        "--metric-resolution=10s",
        "--kubelet-request-timeout=5s",
    ]
    process = plane.processes.start(NAME, command)
    try:
        plane.processes.wait(process, lambda: _answers(plane), START_SECONDS)
    except RuntimeError:
        # An API that is announced and does not answer keeps namespaces from ending.
        plane.kubectl("delete", "apiservice", "v1beta1.metrics.k8s.io", "--ignore-not-found")
        plane.processes.stop(NAME)
        raise


def _answers(plane: ControlPlane) -> bool:
    """It has asked every kubelet twice: the use of a processor is a difference."""
    with contextlib.suppress(RuntimeError):
        return bool(json.loads(plane.kubectl("get", "--raw=/apis/metrics.k8s.io/v1beta1/nodes"))["items"])
    return False


def _objects(plane: ControlPlane, port: int) -> dict[str, Any]:
    """What its own manifest makes, for a server that is no pod."""
    rbac = "rbac.authorization.k8s.io"
    subject = {"apiGroup": rbac, "kind": "User", "name": USER}
    rules = [
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
    ]
    reader = {
        "apiGroups": ["metrics.k8s.io"],
        "resources": ["pods", "nodes"],
        "verbs": ["get", "list", "watch"],
    }
    in_namespace = {"name": NAME, "namespace": NAMESPACE}
    authority = base64.b64encode(plane.authority.certificate.read_bytes()).decode()
    served = {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100}
    items = [
        _object(f"{rbac}/v1", "ClusterRole", {"name": USER}, rules=rules),
        _object(f"{rbac}/v1", "ClusterRoleBinding", {"name": USER}, roleRef=_role("ClusterRole", USER), subjects=[subject]),
        _object(
            f"{rbac}/v1",
            "ClusterRoleBinding",
            {"name": f"{NAME}:system:auth-delegator"},
            roleRef=_role("ClusterRole", "system:auth-delegator"),
            subjects=[subject],
        ),
        _object(
            f"{rbac}/v1",
            "RoleBinding",
            {"name": f"{NAME}-auth-reader", "namespace": NAMESPACE},
            roleRef=_role("Role", "extension-apiserver-authentication-reader"),
            subjects=[subject],
        ),
        # People who may look at pods may look at what they use.
        _object(
            f"{rbac}/v1",
            "ClusterRole",
            {"name": "system:aggregated-metrics-reader", "labels": {f"{rbac}/aggregate-to-view": "true"}},
            rules=[reader],
        ),
        _object("v1", "Service", in_namespace, spec={"ports": [{"name": "https", "port": 443, "targetPort": port}]}),
        _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            {**in_namespace, "labels": {"kubernetes.io/service-name": NAME}},
            addressType="IPv4",
            ports=[{"name": "https", "port": port, "protocol": "TCP"}],
            endpoints=[{"addresses": [network.ADDRESS]}],
        ),
        _object(
            "apiregistration.k8s.io/v1",
            "APIService",
            {"name": "v1beta1.metrics.k8s.io"},
            spec={**served, "caBundle": authority, "service": {"name": NAME, "namespace": NAMESPACE, "port": 443}},
        ),
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _object(version: str, kind: str, metadata: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}


def _role(kind: str, name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
