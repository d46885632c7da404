"""Observed in, plan out: what to apply, and what to say. Pure; asks nobody and changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal

from jitney_operator import builders, conditions, drift, failures, placing, quantities
from jitney_operator.api import TEMPLATE, Json, ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.conditions import Condition, Facts, Progress
from jitney_operator.errors import Rejected
from jitney_operator.failure import Failure
from jitney_operator.observed import Observed
from jitney_operator.resolve import resolve
from jitney_operator.settings import Settings

# Failures that a start meets before the words of its progress: a cause outside the spec was put right, and the same pod goes on.
_NOT_FOUND = frozenset({"ModelNotFound", "Unauthorized"})
OVERCOME = (
    (re.compile(r"downloading (?!0(\.0)?/)"), _NOT_FOUND),
    (re.compile(r"loading \d|warming up|waiting for the readiness probe"), _NOT_FOUND | {"HubUnreachable", "DiskFull", "CacheNotWritable"}),
)


@dataclass(frozen=True)
class Plan:
    """`changes` are the children to apply, in order; `facts` and `resolved` make the status."""

    changes: tuple[Json, ...]
    facts: Facts
    resolved: Json | None

    def status(self, now: str) -> Json:
        return conditions.status(self.facts, self.resolved, now)

    def refused(self, error: Rejected) -> Plan:
        """The same plan after the cluster refused it, as with a name that is taken."""
        condition = conditions.rejected(error.reason, error.message)
        return replace(self, facts=replace(self.facts, accepted=condition, applied=False, invalid=error.invalid))


def make(mdep: ModelDeployment, observed: Observed, settings: Settings, catalogue: Catalogue, progress: Progress | None = None) -> Plan:
    try:
        resolved = resolve(mdep, settings, catalogue)
    except Rejected as error:
        # The children of the last good generation stay as they are.
        return Plan((), _facts(mdep, observed, conditions.rejected(error.reason, error.message), None, False, None), None)
    children = builders.children(mdep, resolved, settings.image_pull_policy, observed.exclusive, _live_template(observed))
    # A claim that is to grow comes last: where its storage cannot, what else has changed holds.
    order = sorted(children, key=lambda child: child["kind"] == "PersistentVolumeClaim" and observed.claim is not None)
    changes = tuple(child for child in order if _differs(observed, child))
    template = children[-1]["spec"]["template"]["metadata"]["annotations"][TEMPLATE]
    verdict = conditions.accepted(resolved.model is not None)
    facts = _facts(mdep, observed, verdict, template, not changes, progress)
    return Plan(changes, facts, resolved.echo(mdep))


def _comparable(child: Json) -> Json:
    """Items of a listing lack their kind and apiVersion."""
    return {name: value for name, value in child.items() if name not in ("apiVersion", "kind")}


def _differs(observed: Observed, child: Json) -> bool:
    match child["kind"]:
        case "PersistentVolumeClaim":
            # Most of a claim cannot be changed, and its owner may let it grow: made once, it is only asked to be as big as the spec says.
            return observed.claim is None or _room(child) > _room(observed.claim)
        case "Service":
            return not drift.holds(observed.service, _comparable(child))
    return not drift.holds(observed.deployment, _comparable(child))


def _room(claim: Json) -> Decimal:
    return quantities.parse(claim["spec"]["resources"]["requests"]["storage"])


def _facts(
    mdep: ModelDeployment, observed: Observed, verdict: Condition, template: str | None, applied: bool, progress: Progress | None
) -> Facts:
    template = template or _live_template(observed)
    current = [pod for pod in observed.pods if pod.template == template and not pod.leaving]
    pods, over = tuple(pod for pod in current if not pod.over), tuple(pod for pod in current if pod.over)
    failure = failures.of(observed, pods, over, mdep.status)
    if progress and progress.reason not in conditions.LOADING:
        failure, progress = _in_its_words(failure, progress), None
    if failure and progress and sum(not pod.ready for pod in pods) == 1 and _is_overcome(failure.reason, progress.line):
        failure = None
    replaces = (observed.deployment or {}).get("spec", {}).get("strategy", {}).get("type") == "Recreate"
    draining = replaces and any(pod.leaving and pod.placed and pod.template != template and not placing.lost(pod) for pod in observed.pods)
    return Facts(mdep, verdict, observed, pods, failure, applied, progress, draining)


def _in_its_words(failure: Failure | None, said: Progress) -> Failure | None:
    """With what the pod that fails says of itself."""
    if failure is None or (failure.reason, failure.pod) != (said.reason, said.pod):
        return failure
    return replace(failure, message=f"{failure.message} It says: {said.line}.")


def _live_template(observed: Observed) -> str | None:
    """The digest of the Deployment's pod template, as its annotation tells it."""
    if observed.deployment is None:
        return None
    annotations: Json = observed.deployment["spec"]["template"]["metadata"].get("annotations") or {}
    return annotations.get(TEMPLATE)


def _is_overcome(reason: str, line: str) -> bool:
    return any(reason in reasons and pattern.match(line) for pattern, reasons in OVERCOME)
