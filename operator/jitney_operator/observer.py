"""All that is known of one resource: its children, what its pods say of themselves, what Events and claims tell."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jitney_operator.api import Key, ModelDeployment
from jitney_operator.autoscalers import Autoscalers
from jitney_operator.claims import Claims
from jitney_operator.conditions import Progress
from jitney_operator.errors import ClusterError
from jitney_operator.load import Load, current
from jitney_operator.observed import Observed
from jitney_operator.scrape import Scrape
from jitney_operator.store import Store
from jitney_operator.troubles import Troubles


@dataclass(frozen=True)
class Sight:
    """One resource at one moment. `mdep` has the replicas that its load asks for, where that decides."""

    mdep: ModelDeployment
    observed: Observed
    progress: Progress | None


@dataclass(frozen=True)
class Observer:
    """Main loop only."""

    store: Store
    scrape: Scrape
    load: Load
    troubles: Troubles
    claims: Claims
    autoscalers: Autoscalers

    async def prepare(self, mdep: ModelDeployment) -> None:
        """Asks for what no watch brings, where it is not known yet."""
        try:
            await self.claims.look(mdep)
        except ClusterError:
            deployment = self.store.observed(mdep).deployment
            if deployment is None:
                raise
            # What goes on meanwhile goes on as it is.
            self.claims.suppose(mdep, deployment["spec"].get("strategy", {}).get("type") == "Recreate")
        if mdep.spec.autoscaling:
            await self.autoscalers.fresh()

    def see(self, mdep: ModelDeployment) -> Sight:
        children = self.store.observed(mdep)
        mdep = mdep.with_hpa(self.autoscalers.scales(mdep.key), self.autoscalers.doubt(mdep.key))
        if mdep.scales_itself and mdep.doubt:
            # Perhaps an autoscaler has the say, so what runs goes on.
            replicas: int | None = current(children, mdep)
        else:
            replicas = self.load.replicas(mdep, children)
        scaled = mdep if replicas is None else mdep.with_replicas(replicas)
        known = replace(children, troubles=self.troubles.of(mdep.key), exclusive=self.claims.exclusive(mdep))
        return Sight(scaled, known, self.scrape.progress(mdep.key))

    def forget(self, key: Key) -> None:
        self.claims.forget(key)
