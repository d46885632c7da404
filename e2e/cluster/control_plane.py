"""etcd and the API server, and the controllers when asked: a Kubernetes that has no nodes.

    with ControlPlane(folder) as plane:
        plane.kubectl("get", "namespaces")

Everything lies in `folder`: certificates, data, logs, audit.log, the admin's kubeconfig.
"""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Self

from cluster import kubeconfig, ports
from cluster.binaries import program
from cluster.certificates import Authority, KeyPair, service_account_key
from cluster.processes import Processes

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"
START_SECONDS = 90

AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi*"]
  - level: Metadata
"""


@dataclass(frozen=True)
class Network:
    """Where the API server listens and how others call it."""

    address: str = "127.0.0.1"
    port: int = 0

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.port}"


class ControlPlane:
    """Starts on entering (or by start()), stops on leaving (or by stop())."""

    def __init__(self, folder: Path, controllers: bool = False, *, address: str = "127.0.0.1", lasting: bool = False) -> None:
        """`address` must be one of this machine; nodes and pods call the API server there. `lasting`: survives this program."""
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.controllers = controllers
        self.processes = Processes(self.folder, lasting)
        self.kubeconfig = self.folder / "kubeconfig"
        # Of one that runs already, the port is known from there.
        self.network = Network(address, kubeconfig.port(self.kubeconfig) if self.kubeconfig.is_file() else 0)
        self.audit_log = self.folder / "audit.log"

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> Self:
        """Bring everything up; RuntimeError with the end of the log of whatever did not come."""
        self._make_certificates()
        self._start_etcd()
        self._start_api_server()
        if self.controllers:
            self.start_controllers()
        return self

    def stop(self) -> None:
        """Stop what was started; the folder stays, for its logs."""
        # The API server would wait for every open watch, and what it holds is thrown away.
        self.processes.stop_all(seconds=3)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Standard output of kubectl as the administrator; RuntimeError with its standard error."""
        command = [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    # Certificates

    @cached_property
    def authority(self) -> Authority:
        """Made at the first start; a program that finds the control plane running goes on with it."""
        return Authority(self.folder / "certificates")

    def _make_certificates(self) -> None:
        self.service_accounts = service_account_key(self.authority.folder)
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost")
        hosts = (*names, SERVICE_ADDRESS, "127.0.0.1", self.network.address)
        self._serving = self.authority.issue("kube-apiserver", hosts=hosts)
        self._to_kubelets = self.authority.issue("kube-apiserver-kubelet-client", groups=("system:masters",))
        self._front_proxy = self.authority.issue("front-proxy-client")

    def credentials(self, user: str, groups: tuple[str, ...] = (), file: str | None = None) -> Path:
        """The path of a new kubeconfig for `user`."""
        name = file or user.replace(":", "-")
        pair = self.authority.issue(user, groups=groups, file=name)
        return self._kubeconfig(self.folder / f"{name}.kubeconfig", user, pair)

    def _kubeconfig(self, path: Path, user: str, pair: KeyPair) -> Path:
        return kubeconfig.write(path, server=self.network.server, authority=self.authority.certificate, user=user, pair=pair)

    # Processes

    def _start_etcd(self) -> None:
        client, peer = ports.free(2)
        self._etcd = f"http://127.0.0.1:{client}"
        command = [
            program("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self._etcd}",
            f"--advertise-client-urls={self._etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            # Nothing here has to survive a power cut, and a disk in a virtual machine is slow at this.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        process = self.processes.start("etcd", command)
        self.processes.wait(process, lambda: _answers(f"{self._etcd}/health"), START_SECONDS)

    def _start_api_server(self) -> None:
        self.network = Network(self.network.address, ports.free(1)[0])
        admin = self.authority.issue("kubernetes-admin", groups=("system:masters",), file="admin")
        self._kubeconfig(self.kubeconfig, "kubernetes-admin", admin)
        process = self.processes.start("kube-apiserver", [program("kube-apiserver"), *self._api_server_flags()])
        context = create_default_context(cafile=str(self.authority.certificate))
        context.load_cert_chain(admin.certificate, admin.key)
        for path in ("/readyz", "/api/v1/namespaces/default"):
            url = self.network.server + path
            self.processes.wait(process, lambda url=url: _answers(url, context), START_SECONDS)

    def _api_server_flags(self) -> list[str]:
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(AUDIT_POLICY)
        # Nobody makes the namespaces' default service accounts when no controllers run, and pods must still be accepted.
        off = [] if self.controllers else ["--disable-admission-plugins=ServiceAccount"]
        return [
            f"--etcd-servers={self._etcd}",
            f"--bind-address={self.network.address}",
            f"--advertise-address={self.network.address}",
            f"--secure-port={self.network.port}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            # Seconds. A test's watch that is opened again misses what came and went in between; the suite takes over half an hour.
            "--min-request-timeout=7200",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            *off,
            "--allow-privileged=true",
            f"--client-ca-file={self.authority.certificate}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={self._to_kubelets.certificate}",
            f"--kubelet-client-key={self._to_kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={self.authority.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={self._front_proxy.certificate}",
            f"--proxy-client-key-file={self._front_proxy.key}",
            f"--service-account-key-file={self.service_accounts}",
            f"--service-account-signing-key-file={self.service_accounts}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
        ]

    def start_controllers(self) -> None:
        """The controller manager, told to hurry: its usual 20 requests per second are what one waits for."""
        port = ports.free(1)[0]
        command = [
            program("kube-controller-manager"),
            f"--kubeconfig={self.credentials('system:kube-controller-manager')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.service_accounts}",
            f"--root-ca-file={self.authority.certificate}",
            f"--cluster-cidr={POD_RANGE}",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            # Minutes in a real cluster, where nobody looks on.
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--horizontal-pod-autoscaler-cpu-initialization-period=10s",
            "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
        ]
        process = self.processes.start("kube-controller-manager", command)
        self.processes.wait(process, self._has_default_service_account, START_SECONDS)

    def start_scheduler(self) -> None:
        """Places pods on nodes; of no use without one."""
        port = ports.free(1)[0]
        config = self.folder / "scheduler.json"
        kubeconfig = self.credentials("system:kube-scheduler")
        connection = {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 1000}
        document = {"kind": "KubeSchedulerConfiguration", "apiVersion": "kubescheduler.config.k8s.io/v1", "clientConnection": connection}
        config.write_text(json.dumps(document | {"leaderElection": {"leaderElect": False}}))
        command = [program("kube-scheduler"), f"--config={config}", "--bind-address=127.0.0.1", f"--secure-port={port}"]
        process = self.processes.start("kube-scheduler", command)
        self.processes.wait(process, lambda: ports.answers(port), START_SECONDS)

    def _has_default_service_account(self) -> bool:
        try:
            self.kubectl("get", "serviceaccount", "default", "--namespace=default")
        except RuntimeError:
            return False
        return True


def _answers(url: str, context: SSLContext | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
