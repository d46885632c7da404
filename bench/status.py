"""How soon the resource says what Kubernetes knows: the same failure twenty times, stamped by an independent watch on both sides.

Needs a cluster (`make cluster-up`); exits with 1 when the 95th percentile is above LEAST.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from product import installation, situations
from product.eye import Eye
from product.situations import Row, Situation

from cluster import target
from cluster.kubectl import Kubectl

RUNS = 20
# Seconds that the 95th percentile may take.
LEAST = 5.0
NAMESPACE = "bench-status"


def main() -> None:
    cluster = target.chosen()
    cluster.up()
    kubectl = Kubectl(cluster.kubeconfig)
    installation.install(cluster, kubectl)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    rows: list[Row] = []
    try:
        with Eye(kubectl) as eye:
            for number in range(RUNS):
                _once(kubectl, Situation(eye, kubectl, NAMESPACE, f"run {number + 1}", rows), f"run-{number + 1}")
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    seconds = sorted(row.seconds for row in rows)
    found = seconds[math.ceil(0.95 * len(seconds)) - 1]
    print(f"\n{RUNS} runs: median {seconds[len(seconds) // 2]:.2f} s, p95 {found:.2f} s, slowest {seconds[-1]:.2f} s after Kubernetes knew")
    if found > LEAST:
        sys.exit(f"error: p95 must be at most {LEAST} s")


def _once(kubectl: Kubectl, situation: Situation, name: str) -> None:
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"model": "file:///nowhere", "rollout": {"drainSeconds": 1}}
    kubectl.apply({"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec})
    situation("model not found", name, situations.ENDED, "ModelLoaded", "ModelNotFound")
    kubectl("delete", "mdep", name, "-n", NAMESPACE)


if __name__ == "__main__":
    main()
