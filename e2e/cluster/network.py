"""The bridge that pods hang on, and the few host settings they need; every change is undone by its inverse."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from cluster.control_plane import POD_RANGE, SERVICE_RANGE

BRIDGE = "jitney0"
ADDRESS = "10.244.0.1"
PREFIX = 24
# The host's settings, and what pods need of them. Refusals are ICMP messages, of which the kernel sends one address a single one in a
# second: of sixteen clients in one pod some would wait for minutes.
SETTINGS = {"net/ipv4/ip_forward": "1", "net/ipv4/icmp_ratelimit": "0"}
# What kubelet and kube-proxy set without being asked, and leave so.
SET_BY_KUBERNETES = (
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
)
PROC = Path("/proc/sys")
# What leaves the pods' network goes out under the machine's address; what stays inside keeps its own.
RULES = (
    ("nat", "POSTROUTING", ("-s", POD_RANGE, "!", "-d", POD_RANGE, "-j", "MASQUERADE")),
    ("filter", "FORWARD", ("-s", POD_RANGE, "-j", "ACCEPT")),
    ("filter", "FORWARD", ("-d", POD_RANGE, "-j", "ACCEPT")),
    # A Service that kube-proxy does not lead anywhere (yet) must not be looked for outside, where something may even answer.
    ("filter", "FORWARD", ("-d", SERVICE_RANGE, "-j", "REJECT")),
    ("filter", "OUTPUT", ("-d", SERVICE_RANGE, "-j", "REJECT")),
)
WORDS = "jitney throwaway cluster"
COMMENT = ("-m", "comment", "--comment", WORDS)
# A rule or a chain that holds one of these is of a cluster: ours, kube-proxy's and kubelet's, the bridge's.
MARKS = (WORDS, "KUBE-", BRIDGE)


def create(folder: Path) -> None:
    """Make the bridge; `folder` remembers what the host's settings were."""
    _remember(folder, *SETTINGS)
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{ADDRESS}/{PREFIX}", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    for name, value in SETTINGS.items():
        (PROC / name).write_text(value)
    for table, chain, rule in RULES:
        _run("iptables", "-w", "-t", table, "-I", chain, *rule, *COMMENT)
    # Some of them come with the first rule.
    _remember(folder, *SET_BY_KUBERNETES)


def remove(folder: Path) -> None:
    """Undo create(); what is gone already is no error."""
    for table, chain, rule in RULES:
        while _succeeds("iptables", "-w", "-t", table, "-D", chain, *rule, *COMMENT):
            pass
    for tool in ("iptables", "ip6tables"):
        _remove_kubernetes_rules(tool)
    _succeeds("ip", "link", "delete", BRIDGE)
    _restore(folder, *SETTINGS, *SET_BY_KUBERNETES)


def _remember(folder: Path, *settings: str) -> None:
    for setting in settings:
        if (PROC / setting).is_file():
            _memory(folder, setting).write_text((PROC / setting).read_text())


def _restore(folder: Path, *settings: str) -> None:
    for setting in settings:
        before = _memory(folder, setting)
        if before.is_file() and before.read_text() != (PROC / setting).read_text():
            (PROC / setting).write_text(before.read_text())


def _memory(folder: Path, setting: str) -> Path:
    return folder / setting.rpartition("/")[2]


def _remove_kubernetes_rules(tool: str) -> None:
    """The chains of kube-proxy and kubelet, and what leads into them: both name them KUBE-. All else is put back as it was, at once.

    Not by `kube-proxy --cleanup`: the one that made them may have been built into a cache that is gone.
    """
    saved = subprocess.run([f"{tool}-save"], capture_output=True, text=True, check=False).stdout
    if "KUBE-" in saved:
        kept = "".join(line for line in saved.splitlines(keepends=True) if "KUBE-" not in line)
        subprocess.run([f"{tool}-restore", "-w"], input=kept, capture_output=True, text=True, check=False)


def write_cni(folder: Path) -> None:
    """The configuration containerd reads for pods: a bridge, addresses from a file under `folder`, the loopback."""
    ranges = [[{"subnet": f"{ADDRESS.rsplit('.', 1)[0]}.0/{PREFIX}"}]]
    addresses = {"type": "host-local", "dataDir": str(folder / "addresses"), "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": addresses}
    document = {"cniVersion": "0.4.0", "name": "jitney", "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]}
    path = folder / "net.d" / "10-jitney.conflist"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
