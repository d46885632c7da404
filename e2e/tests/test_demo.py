"""`make demo` as a person runs it, once, where everything is built and up; then each line that it printed for use, word by word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from product import resource

from cluster.images import REPOSITORY
from cluster.kubectl import Kubectl
from cluster.target import Cluster

# As a person's shell has it: a make inside of make would announce its folders.
SHELL = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
STATE = re.compile(r"^ +\d+\.\d s  (\w+) +(.+)$", re.MULTILINE)
CHAT = re.compile(r"^ ?(?P<number>\d+)  (?P<said>.{97}) +(?P<tokens>\d+) +(?P<first>\d+\.\d\d) s +(?P<speed>\d+\.\d)$", re.MULTILINE)
TOGETHER = re.compile(
    r"^ +16 of 16 chats answered; (\d+) tokens in [\d.]+ s = (\d+) tokens/s together; "
    r"first token after ([\d.]+) s \(median\), ([\d.]+) s \(slowest\)$",
    re.MULTILINE,
)
# What nobody does again who has it.
ANEW = ("setting up the Python environment", "installing", "building ", "making the base image", "handing ", "fetching ", "converting ")


def run(command: list[str], seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=REPOSITORY, env=SHELL, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.fixture(scope="module")
def shown(kubectl: Kubectl, operator: None) -> Iterator[str]:
    """All that a terminal would have shown, in its order."""
    started = time.monotonic()
    done = run(["bash", "-c", "make demo 2>&1"], 900)
    print(done.stdout, f"{time.monotonic() - started:.0f} s", sep="\n")
    assert done.returncode == 0
    yield done.stdout
    kubectl("delete", "mdep", "smollm2", "--ignore-not-found", "--timeout=120s")


def printed(shown: str, start: str) -> str:
    """The one line for use that begins so."""
    (line,) = [line for line in shown.splitlines() if line.startswith(f"  {start}")]
    return line


def test_it_takes_what_is_there(shown: str, cluster: Cluster) -> None:
    if cluster.kind != "local":
        pytest.skip("what another cluster has, its registry knows")
    done = [line for line in shown.splitlines() if line.startswith(ANEW) and not line.startswith("installing the chart")]
    assert not done
    assert "using the cluster that is up since" in shown
    assert "starting Kubernetes" not in shown


def test_it_shows_the_resource_on_its_way_to_ready(shown: str) -> None:
    states = STATE.findall(shown)
    reasons = [reason for reason, _ in states]
    assert len(set(states)) >= 3
    assert "Ready" not in reasons[:-1]
    assert reasons[-1] == "Ready"
    assert states[-1][1].startswith("1/1")


def test_it_ends_with_sixteen_answers_and_a_ready_resource(shown: str, kubectl: Kubectl) -> None:
    chats = list(CHAT.finditer(shown))
    assert [int(chat["number"]) for chat in chats] == list(range(int(chats[0]["number"]), int(chats[0]["number"]) + 16))
    for chat in chats:
        prompt, answer = chat["said"][:36].strip(), chat["said"][37:].strip()
        assert prompt
        assert answer
        assert int(chat["tokens"]) > 0
        assert float(chat["speed"]) > 0
    together = TOGETHER.search(shown)
    assert together
    tokens, speed, median, slowest = map(float, together.groups())
    assert tokens == sum(int(chat["tokens"]) for chat in chats)
    assert speed > 0
    assert 0 < median <= slowest
    # Nothing comes between the table, the resource and the end; how to use it and how long it took stand above.
    rest = shown[chats[-1].end() :].strip().splitlines()
    assert [rest[0].strip(), *rest[1:3]] == [together[0].strip(), "", "$ kubectl get mdep -o wide"]
    header, row = rest[3:]
    assert header.split()[:4] == ["NAME", "MODEL", "ENGINE", "READY"]
    assert row.split()[0] == "smollm2"
    assert {"1/1", "Ready"} <= set(row.split())
    above = shown[: chats[0].start()]
    assert "\nthe demo took " in above
    assert "\nThe cluster stays up. To use it:\n" in above
    assert resource.State.of(kubectl.get("mdep", "smollm2") or {}).is_ready


def test_the_lines_that_it_prints_for_use(shown: str, cluster: Cluster) -> None:
    export = printed(shown, "export ")
    done = run(["bash", "-c", f"{export}\nkubectl get mdep smollm2 -o name\nhelm list --short --namespace jitney-system"])
    assert (done.stdout.split(), done.stderr) == (["modeldeployment.serving.jitney.dev/smollm2", "jitney"], "")
    if cluster.kind == "local":
        done = run(["bash", "-c", printed(shown, "curl ")], 300)
        assert done.returncode == 0
        answer = json.loads(done.stdout)
        assert answer["model"] == "smollm2"
        assert answer["choices"][0]["message"]["content"]


def test_the_verb_that_ends_it_exists(shown: str, cluster: Cluster) -> None:
    """Nobody runs it here: others need the cluster. `.ci/run` ends with it, and it says what it could not remove."""
    if cluster.kind != "current":
        assert printed(shown, "make demo-down")
        assert run(["make", "-n", "demo-down"]).returncode == 0


def test_the_kubeconfigs_path_and_nothing_else(cluster: Cluster, kubectl: Kubectl) -> None:
    if cluster.kubeconfig is None:
        pytest.skip("a cluster of one's own has a kubeconfig of one's own")
    done = run(["make", "-s", "kubeconfig"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{cluster.kubeconfig}\n", "")
