"""`make cluster-down` says what a cluster left on this machine: the decision as a table, then the real network, made and taken down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import leftovers, network, places
from cluster.leftovers import Left, Link, Process, Seen

ROOT = Path(__file__).parents[1]
FOLDER = "/var/lib/jitney-throwaway/cluster"
SHIM = ("/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-id", "ab", "-address", "/run/jitney/containerd.sock")


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Seen(processes=(Process(7, ("/cache/bin/kubelet", f"--config={FOLDER}/node/kubelet.json")),)), "process 7 (kubelet)"),
        (Seen(processes=(Process(7, ("containerd", "--config", f"{FOLDER}/node/containerd.toml")),)), "process 7 (containerd)"),
        (Seen(processes=(Process(7, SHIM),)), "process 7 (containerd-shim-runc-v2)"),
        (Seen(processes=(Process(7, ("python", "-m", "x"), ("/", "/kubepods/besteffort/pod1/ab")),)), "process 7 (python)"),
        (Seen(mounts=("/run/jitney/containerd/io/rootfs",)), "mount /run/jitney/containerd/io/rootfs"),
        (Seen(mounts=(f"{FOLDER}/node/kubelet/pods/1/volumes",)), f"mount {FOLDER}/node/kubelet/pods/1/volumes"),
        (Seen(mounts=("/run/netns/cni-1234",)), "mount /run/netns/cni-1234"),
        (Seen(mounts=("/cache/images/storage/overlay",)), "mount /cache/images/storage/overlay"),
        (Seen(links=(Link("jitney0"),)), "network interface jitney0"),
        (Seen(links=(Link("veth01234abc"),)), "network interface veth01234abc"),
        (Seen(rules=(":KUBE-SERVICES - [0:0]",)), "firewall rule :KUBE-SERVICES - [0:0]"),
        (Seen(rules=('-A OUTPUT -m comment --comment "jitney throwaway cluster" -j REJECT',)), "jitney throwaway cluster"),
        (Seen(paths=("folder /run/jitney",)), "folder /run/jitney"),
    ],
)
def test_what_is_ours_is_named(seen: Seen, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JITNEY_CACHE", "/cache")
    (left,) = leftovers.ours(seen)
    assert said in left


@pytest.mark.parametrize(
    "seen",
    [
        Seen(),
        # Another Kubernetes' programs, and a person who looks at our logs.
        Seen(processes=(Process(7, ("kube-apiserver", "--etcd-servers=http://127.0.0.1:1")), Process(8, ("containerd",)))),
        Seen(processes=(Process(7, ("tail", "-f", f"{FOLDER}/logs/kubelet.log")),)),
        Seen(processes=(Process(7, ("python",), ("/", "/user.slice", "/docker/ab/kubelet/kubepods/x")),)),
        # Somebody builds images at this moment.
        Seen(processes=(Process(7, ("buildah", "bud")),), mounts=("/cache/images/storage/overlay",)),
        Seen(processes=(Process(7, ("/bin/sh", "/usr/sbin/debootstrap", "x")),), mounts=("/cache/images/debootstrap/proc",)),
        Seen(mounts=("/", "/run", "/run/jitney-other", "/run/netns/mine", "/run/docker/netns/ab")),
        Seen(links=(Link("lo"), Link("eth0"), Link("docker0"), Link("veth1234abc", "docker0"), Link("veth01234abc", "cni0"))),
        Seen(rules=("*nat", ":POSTROUTING ACCEPT [0:0]", "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE", "COMMIT")),
    ],
)
def test_what_is_somebody_elses_is_not(seen: Seen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JITNEY_CACHE", "/cache")
    assert leftovers.ours(seen) == []


@pytest.mark.parametrize(
    ("text", "own", "groups"),
    [
        ("0::/\n", "0::/\n", ("/",)),
        ("0::/kubepods/besteffort/pod1/ab\n", "0::/user.slice\n", ("/kubepods/besteffort/pod1/ab",)),
        ("3:memory:/kubepods/pod1/ab\n1:cpu,cpuacct:/\n", "3:memory:/\n1:cpu,cpuacct:/\n", ("/", "/kubepods/pod1/ab")),
        # We run in a pod of somebody's Kubernetes, and so does whatever else is here.
        ("0::/kubepods/pod7/us\n", "0::/kubepods/pod7/us\n", ("/",)),
        ("0::/kubepods/pod7/us/kubepods/pod1/ab\n", "0::/kubepods/pod7/us\n", ("/kubepods/pod1/ab",)),
    ],
)
def test_a_pods_process_is_told_from_those_beside_us_in_a_pod(text: str, own: str, groups: tuple[str, ...]):
    assert leftovers.control_groups(text, own) == groups


def test_what_stays_is_one_sentence_and_what_goes_in_time_is_none(monkeypatch: pytest.MonkeyPatch):
    answers = [Seen(links=(Link("jitney0"),), paths=("folder /run/jitney",)), Seen()]
    monkeypatch.setattr(leftovers, "look", lambda: answers.pop(0))
    leftovers.require_none(seconds=5)
    rules = tuple(f"-A KUBE-{number}" for number in range(9))
    monkeypatch.setattr(leftovers, "look", lambda: Seen(links=(Link("jitney0"),), rules=rules, paths=("folder /run/jitney",)))
    with pytest.raises(Left) as said:
        leftovers.require_none(seconds=0)
    named = "firewall rule -A KUBE-0; firewall rule -A KUBE-1; firewall rule -A KUBE-2; 6 more of this kind"
    start = "the cluster is stopped and has left on this machine: network interface jitney0"
    assert str(said.value) == f"{start}; {named}; folder /run/jitney"


# The real machine

MADE = """
import json, subprocess, sys
from pathlib import Path
from cluster import leftovers, network

def said():
    # The cluster of this machine, should there be one, has other processes, files and mounts.
    seen = leftovers.look()
    return leftovers.ours(leftovers.Seen(links=seen.links, rules=seen.rules))

def settings():
    return {name: (network.PROC / name).read_text() for name in network.SETTINGS}

folder, before = Path(sys.argv[1]), settings()
print(json.dumps(said()))
network.create(folder)
changed = settings() != before
# As kube-proxy has it, and a pod whose end nobody saw.
for command in ("iptables -t nat -N KUBE-SERVICES", "iptables -t nat -A OUTPUT -j KUBE-SERVICES", "ip6tables -t filter -N KUBE-FORWARD",
                "ip link add veth0123abcd type veth peer name eth9"):
    subprocess.run(command.split(), check=True)
print(json.dumps(said()))
network.remove(folder)
subprocess.run("ip link delete veth0123abcd".split(), check=True)
print(json.dumps(said()))
print(json.dumps([changed, settings() == before]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a network of its own")
def test_the_real_network_is_named_while_it_is_there_and_gone_afterwards(tmp_path: Path):
    """In a network of its own, where no cluster of this machine is seen."""
    if not shutil.which("iptables") or not shutil.which("ip"):
        pytest.skip("iptables or ip is missing, which the local cluster installs")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", MADE, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT / "e2e")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith("unshare:"):
        pytest.skip("this machine lets nobody have a network of his own")
    assert done.returncode == 0, done.stderr
    before, there, after, settings = map(json.loads, done.stdout.splitlines())
    assert before == []
    for word in ("network interface jitney0", "network interface veth0123abcd", "MASQUERADE", "REJECT", ":KUBE-SERVICES", ":KUBE-FORWARD"):
        assert any(word in line for line in there), word
    assert after == []
    assert settings == [True, True]


def test_what_kubernetes_sets_by_itself_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the machine's commands left out; the settings are files."""
    proc, memory = tmp_path / "proc", tmp_path / "memory"
    memory.mkdir()
    here = {"net/ipv4/ip_forward": "0\n", "net/ipv4/icmp_ratelimit": "1000\n", "vm/overcommit_memory": "0\n", "kernel/panic": "0\n"}
    for name, value in here.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(value)
    monkeypatch.setattr(network, "PROC", proc)
    monkeypatch.setattr(network, "_run", lambda *command: None)
    monkeypatch.setattr(network, "_succeeds", lambda *command: False)
    monkeypatch.setattr(network, "_remove_kubernetes_rules", lambda tool: None)
    network.create(memory)
    for name in here:
        (proc / name).write_text("7\n")
    network.remove(memory)
    assert {name: (proc / name).read_text() for name in here} == here


def test_files_that_kubernetes_puts_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was there before stays, but for what is ours in it."""
    kubelet, logs, addresses, run = (tmp_path / name for name in ("kubelet/plugins", "containers", "cni/results", "run-containerd"))
    for name, value in {"KUBELET": kubelet, "LOGS": logs, "ADDRESSES": addresses}.items():
        monkeypatch.setattr(places, name, value)
    monkeypatch.setattr(places, "MADE", (kubelet, logs, addresses))
    monkeypatch.setattr(places, "EMPTIED", (kubelet.parent, addresses.parent, run))
    memory = tmp_path / "memory"
    memory.mkdir()
    for folder in (logs, addresses):
        folder.mkdir(parents=True)
    (addresses / "cni-loopback-cd-lo").touch()
    (logs / "other.log").symlink_to("/var/log/pods/other.log")
    places.remember(memory)

    for folder in (kubelet, run / "s", run / "busy"):
        folder.mkdir(parents=True)
    (kubelet / "kubelet.sock").touch()
    (logs / "ours.log").symlink_to(f"{FOLDER}/node/pods/x/0.log")
    for name in ("jitney-ab-eth0", "cni-loopback-ab-lo"):
        (addresses / name).touch()
    (run / "busy" / "socket").touch()
    assert places.ours() == sorted([addresses / "jitney-ab-eth0", addresses / "cni-loopback-ab-lo", logs / "ours.log"])

    places.remove(memory)
    assert places.ours() == []
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    assert left - {"memory/absent.json"} == {"containers/other.log", "cni/results/cni-loopback-cd-lo", "run-containerd/busy/socket"}
    assert not kubelet.parent.exists()
    assert not (run / "s").exists()
