"""What a runtime counts, asked for through the API server."""

from __future__ import annotations

import re

from cluster.kubectl import Kubectl


def _sum(text: str, name: str) -> float:
    """The sum over all label sets."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def _text(kubectl: Kubectl, namespace: str) -> str:
    return kubectl.raw(f"/api/v1/namespaces/{namespace}/services/smollm2:80/proxy/metrics")


def counters(kubectl: Kubectl, namespace: str) -> tuple[float, float]:
    """Steps of the model, and tokens that they made."""
    text = _text(kubectl, namespace)
    return _sum(text, "jitney_step_seconds_count"), _sum(text, "jitney_generation_tokens_total")


def running(kubectl: Kubectl, namespace: str) -> float:
    """Requests in the batch."""
    return _sum(_text(kubectl, namespace), "jitney_requests_running")
