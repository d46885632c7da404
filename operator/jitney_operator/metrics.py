"""What the operator counts, in its own registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.reconciles = Counter("jitney_operator_reconciles", "Looks at one ModelDeployment", registry=self._registry)
        self.writes = Counter("jitney_operator_writes", "Writes to the API server", ["what"], registry=self._registry)
        self.restarts = Counter("jitney_operator_watch_restarts", "Times the watches were started anew", registry=self._registry)
        self.leader = Gauge("jitney_operator_leader", "1 while this process holds the lease", registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
