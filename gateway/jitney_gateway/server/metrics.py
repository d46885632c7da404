"""Prometheus names, all in one place. A label is a model that is there, the id of a key, or a status; what clients make up gets none."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jitney_gateway.server.visit import Visit

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# Models come and go, and each name stays a label until the front door ends: those after so many share one.
MOST_MODELS, OTHERS = 1000, "others"


class Metrics:
    """One registry per application, so that two in one process (tests) do not meet."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models = set[str]()
        self._requests = Counter(
            "jitney_gateway_requests", "chats and completions answered", ("model", "key", "status"), registry=self.registry
        )
        self._tokens = Counter(
            "jitney_gateway_tokens", "tokens of answers, by prompt and completion", ("model", "key", "kind"), registry=self.registry
        )
        self._first = Histogram(
            "jitney_gateway_time_to_first_token_seconds",
            "from the request to the first text of a streamed answer",
            ("model",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._refused = Counter("jitney_gateway_refused", "requests that were not let in", ("status",), registry=self.registry)

    def follow(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked when somebody looks."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def answered(self, visit: Visit, status: int) -> None:
        self._requests.labels(self._model(visit), visit.key_id, str(status)).inc()

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def spent(self, visit: Visit, prompt: int, completion: int) -> None:
        for kind, count in (("prompt", prompt), ("completion", completion)):
            self._tokens.labels(self._model(visit), visit.key_id, kind).inc(count)

    def first_token(self, visit: Visit, seconds: float) -> None:
        self._first.labels(self._model(visit)).observe(seconds)

    def _model(self, visit: Visit) -> str:
        if len(self._models) < MOST_MODELS:
            self._models.add(visit.model)
        return visit.model if visit.model in self._models else OTHERS

    def render(self) -> bytes:
        return generate_latest(self.registry)


def routes(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def read() -> Response:
        return Response(metrics.render(), media_type=metrics.content_type)

    return router
