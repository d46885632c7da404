"""The one node: containerd, kubelet, kube-proxy, and a DNS server on the bridge's address."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from cluster import network, ports
from cluster.binaries import program
from cluster.containerd import RUN, SOCKET, Containerd, cgroups, unmount_below
from cluster.control_plane import POD_RANGE, ControlPlane

NAME = "jitney"
DOMAIN = "cluster.local"
START_SECONDS = 90

COREFILE = """\
.:53 {{
    bind {address}
    errors
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 5
}}
"""

# CoreDNS reads these; the controllers' roles that Kubernetes brings do not cover it.
DNS_ACCESS = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: jitney-dns}
rules:
  - {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: jitney-dns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: jitney-dns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:dns"}]
"""


class Node:
    """Belongs to one control plane, whose record of processes it shares."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.folder = plane.folder / "node"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.containerd = Containerd(self.folder, plane.processes)

    # Start

    def start_containerd(self) -> None:
        """First, so that images can be handed over before any pod exists."""
        network.write_cni(self.folder)
        self.containerd.start()

    def start(self) -> None:
        """Kubelet, kube-proxy and DNS; returns when the node is Ready."""
        self._start_dns()
        self._start_proxy()
        self.start_kubelet()

    def start_kubelet(self) -> None:
        config = self._write("kubelet.json", self._kubelet_config())
        command = [
            program("kubelet"),
            f"--config={config}",
            f"--kubeconfig={self.plane.credentials(f'system:node:{NAME}', ('system:nodes',), file='kubelet-client')}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--hostname-override={NAME}",
            f"--node-ip={network.ADDRESS}",
        ]
        process = self.plane.processes.start("kubelet", command)
        self.plane.processes.wait(process, self._ready, START_SECONDS)

    def _kubelet_config(self) -> dict[str, object]:
        pair = self.plane.authority.issue("kubelet", hosts=(network.ADDRESS, NAME))
        health, serving = ports.free(2)
        authority = str(self.plane.authority.certificate)
        return {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": network.ADDRESS,
            "port": serving,
            "healthzPort": health,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": authority}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pair.certificate),
            "tlsPrivateKeyFile": str(pair.key),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "clusterDNS": [network.ADDRESS],
            "clusterDomain": DOMAIN,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": False,
            "oomScoreAdj": 0,
            "podLogsDir": str(self.folder / "pods"),
            "volumePluginDir": str(self.folder / "plugins"),
        }

    def _start_proxy(self) -> None:
        self.plane.processes.start("kube-proxy", [program("kube-proxy"), f"--config={self._proxy_config()}"])

    def _proxy_config(self) -> Path:
        health, metrics = ports.free(2)
        kubeconfig = self.plane.credentials("system:kube-proxy")
        document = {
            "kind": "KubeProxyConfiguration",
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "mode": "iptables",
            "clusterCIDR": POD_RANGE,
            "hostnameOverride": NAME,
            "bindAddress": network.ADDRESS,
            "healthzBindAddress": f"127.0.0.1:{health}",
            "metricsBindAddress": f"127.0.0.1:{metrics}",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "conntrack": {"maxPerCore": 0},
            "iptables": {"localhostNodePorts": False, "minSyncPeriod": "0s"},
            "oomScoreAdj": 0,
        }
        return self._write("kube-proxy.json", document)

    def _start_dns(self) -> None:
        self.plane.kubectl("apply", "-f", "-", input=DNS_ACCESS)
        corefile = self.folder / "Corefile"
        kubeconfig = self.plane.credentials("system:dns")
        corefile.write_text(COREFILE.format(address=network.ADDRESS, domain=DOMAIN, kubeconfig=kubeconfig))
        process = self.plane.processes.start("coredns", [program("coredns"), "-conf", corefile])
        self.plane.processes.wait(process, lambda: ports.answers(53, network.ADDRESS), START_SECONDS)

    def _ready(self) -> bool:
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        with contextlib.suppress(RuntimeError):
            return self.plane.kubectl("get", "node", NAME, "-o", f"jsonpath={path}") == "True"
        return False

    def _write(self, name: str, document: dict[str, object]) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(document, indent=1))
        return path

    # Stop

    def stop(self) -> None:
        """End every pod and undo what kubelet, proxy and containerd did to the machine."""
        for name in ("kubelet", "kube-proxy", "coredns"):
            self.plane.processes.stop(name)
        self._end_pods()
        self.plane.processes.stop("containerd")
        unmount_below(self.folder, RUN)
        for folder in cgroups():
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _end_pods(self) -> None:
        if any(process.name == "containerd" and not process.alive() for process in self.plane.processes.running):
            # Its containers run on without it, and only it knows them.
            self.plane.processes.stop("containerd")
            self.containerd.start()
        if any(process.name == "containerd" for process in self.plane.processes.running):
            self.containerd.clear()
