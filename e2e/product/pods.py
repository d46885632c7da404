"""The pods of a model, and what the runtime in each of them counts."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from cluster.kubectl import Kubectl

LABEL = "serving.jitney.dev/model-deployment"


@dataclass(frozen=True)
class Pod:
    """`address` is where its runtime is asked, such as http://10.0.0.7:8000."""

    name: str
    address: str

    def count(self, metric: str) -> float:
        """The sum over all label sets; 0 where nothing has been counted."""
        families = text_string_to_metric_families(httpx.get(f"{self.address}/metrics", timeout=30, trust_env=False).text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == metric)


def of(kubectl: Kubectl, name: str, namespace: str) -> list[Pod]:
    """Those that are not leaving, of the ModelDeployment `name`."""
    found = kubectl.list("pods", namespace, "-l", f"{LABEL}={name}")
    here = [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("podIP")]
    return [Pod(pod["metadata"]["name"], f"http://{pod['status']['podIP']}:8000") for pod in here]
