"""Every condition and its reasons, and the status around them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from jitney_operator.api import LABEL, Json, ModelDeployment
from jitney_operator.failure import Failure
from jitney_operator.observed import Observed, Pod
from jitney_operator.reasons import REASONS, STALLING
from jitney_operator.words import clipped

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
LOADING = {"Downloading", "Loading", "WarmingUp"}
OVERDUE = "The rollout did not finish in time."


@dataclass(frozen=True)
class Condition:
    """`reason` is one of reasons.REASONS, on a condition that it may stand on."""

    type: str
    status: str
    reason: str
    message: str

    def __post_init__(self) -> None:
        known = REASONS[self.reason].conditions
        if self.type not in ("Ready", "Stalled", "Progressing") and self.type not in known:
            raise ValueError(f"{self.reason} is no reason of {self.type}")


@dataclass(frozen=True)
class Progress:
    """What a pod that is not ready says of itself: how far it is, or (NotAnswering) why it serves no longer."""

    reason: str
    line: str
    pod: str = ""


@dataclass(frozen=True)
class Facts:
    """All that the conditions are made of. `pods` are those of the current revision that are not leaving."""

    mdep: ModelDeployment
    accepted: Condition
    observed: Observed
    pods: tuple[Pod, ...]
    failure: Failure | None
    applied: bool
    progress: Progress | None = None
    # Pods of a revision before must be gone before the next are made (Recreate), and finish their answers.
    draining: bool = False
    # The server calls a child invalid, and will as long as the spec is the same.
    invalid: bool = False

    @property
    def wanted(self) -> int:
        """Replicas; those of the last good generation where this one is refused, because its children stay."""
        if self.accepted.status == FALSE and self.observed.deployment:
            return self.observed.wanted
        return self.mdep.spec.wanted

    @property
    def ready_pods(self) -> int:
        return sum(pod.ready for pod in self.pods)

    @property
    def earlier_pods(self) -> int:
        """Ready pods of a revision before."""
        return sum(pod.ready for pod in self.observed.pods) - self.ready_pods

    @property
    def replacing(self) -> bool:
        """The failure is of a pod that is over: the one in its place is not ready, and perhaps not made yet."""
        return self.failure is not None and any(pod.over and pod.name == self.failure.pod for pod in self.observed.pods)

    @property
    def current_pods(self) -> int:
        """One that a node threw out counts until the next is made in its place. That takes the Deployment's controller a moment, and where
        it goes on and on each round would be two writes else. What keeps the next from being made is another failure, told with the gap."""
        told = int(self.mdep.status.get("updatedReplicas", 0)) if self.replacing else 0
        return max(len(self.pods), min(told, self.wanted))

    @property
    def complete(self) -> bool:
        """Every wanted replica is of the current revision and ready, and none of another is: the controller says so, and so do the pods, of
        which it may not have heard yet. Pods that only finish their answers do not count."""
        counts = {self.observed.count(name) for name in ("replicas", "updatedReplicas", "readyReplicas")}
        return self.applied and self.observed.settled and counts == {self.wanted} and self.ready_pods == self.wanted

    @property
    def overdue(self) -> bool:
        """Kubernetes has given the rollout up, and nothing has moved since: what it says stays on the Deployment until a pod more is ready,
        also while another revision, or a node that came late, has put things right and the pods are on their way."""
        verdict = self.observed.deployment_condition("Progressing")
        if verdict.get("reason") != "ProgressDeadlineExceeded" or self.complete:
            return False
        said = verdict.get("lastUpdateTime", "")
        return self.failure is not None or any(not pod.ready and pod.moved <= said for pod in self.pods)


def accepted(shape_known: bool) -> Condition:
    if shape_known:
        return Condition("Accepted", TRUE, "Fits", "The model fits the profile.")
    return Condition("Accepted", TRUE, "ShapeUnknown", "The model is not in the catalogue: whether it fits was not checked.")


def rejected(reason: str, message: str) -> Condition:
    return Condition("Accepted", FALSE, reason, message)


def all_of(facts: Facts) -> list[Condition]:
    """In the order in which they explain each other."""
    parts = [facts.accepted, scheduled(facts), loaded(facts), available(facts), progressing(facts)]
    return [*parts, ready(facts, parts), *stalled(facts)]


def scheduled(facts: Facts) -> Condition:
    if facts.failure and facts.failure.schedules:
        return Condition("Scheduled", FALSE, facts.failure.reason, facts.failure.message)
    if facts.replacing:
        # Now none, now made, now placed: what is said holds at each of these moments, and how long the next one lasts nobody knows.
        return Condition("Scheduled", UNKNOWN, "Pending", "A node threw a pod out, and the one in its place is not ready yet.")
    if facts.complete or (len(facts.pods) >= facts.wanted and all(pod.placed for pod in facts.pods)):
        return Condition("Scheduled", TRUE, "Placed", "Every wanted pod has a node.")
    if not facts.pods and facts.draining:
        words = "Pods of the revision before finish their answers; the next are made when they are gone."
        return Condition("Scheduled", UNKNOWN, "WaitingForDrain", words)
    return Condition("Scheduled", UNKNOWN, "Pending", "Waiting for the pods to be placed.")


def loaded(facts: Facts) -> Condition:
    if facts.wanted == 0:
        return Condition("ModelLoaded", FALSE, _idle(facts), "No pod is wanted.")
    if facts.complete or facts.ready_pods >= facts.wanted:
        return Condition("ModelLoaded", TRUE, "Loaded", "The pods hold the weights.")
    if facts.failure and not facts.failure.schedules:
        return Condition("ModelLoaded", FALSE, facts.failure.reason, facts.failure.message)
    if facts.progress:
        return Condition(
            "ModelLoaded", FALSE, facts.progress.reason, "A pod is getting the model ready; status.progress says how far it is."
        )
    return Condition("ModelLoaded", UNKNOWN, "Pending", "Waiting for the pods to load the model.")


def available(facts: Facts) -> Condition:
    if facts.ready_pods + facts.earlier_pods > 0:
        return Condition("Available", TRUE, "Serving", _who_answers(facts))
    if facts.wanted == 0:
        return Condition("Available", FALSE, _idle(facts), _idle_message(facts))
    return Condition("Available", FALSE, "NoReadyReplica", "No pod answers chat requests.")


def _who_answers(facts: Facts) -> str:
    if facts.earlier_pods and facts.ready_pods:
        return "Pods of the current revision and of the one before answer chat requests."
    if facts.earlier_pods:
        return "Pods of the revision before answer chat requests, until the current one is ready."
    return "At least one pod answers chat requests."


def progressing(facts: Facts) -> Condition:
    if facts.complete:
        if facts.mdep.scales_itself and facts.mdep.doubt:
            return Condition("Progressing", FALSE, "AutoscalerUnknown", f"The replicas stay as they are: {facts.mdep.doubt}")
        return Condition("Progressing", FALSE, "Complete", "Nothing is being rolled out.")
    if facts.overdue:
        return Condition("Progressing", FALSE, "DeadlineExceeded", OVERDUE)
    if facts.accepted.status == FALSE:
        return Condition("Progressing", FALSE, facts.accepted.reason, "This generation is not rolled out.")
    return Condition("Progressing", TRUE, "RollingOut", "Pods are being started or replaced.")


def ready(facts: Facts, parts: list[Condition]) -> Condition:
    """False says why with the first condition that explains it."""
    if facts.accepted.status == TRUE and facts.complete:
        if facts.wanted == 0:
            return Condition("Ready", TRUE, _idle(facts), _idle_message(facts))
        return Condition("Ready", TRUE, "Ready", "Every wanted replica answers chat requests.")
    for part in parts[:3]:
        if part.status == FALSE and part.reason not in ("Suspended", "ScaledToZero"):
            return Condition("Ready", FALSE, part.reason, part.message)
    pending = next((part for part in parts[:3] if part.status == UNKNOWN), None)
    if pending:
        return Condition("Ready", FALSE, pending.reason, pending.message)
    return Condition("Ready", FALSE, "RollingOut", "Pods are being started or replaced.")


def stalled(facts: Facts) -> list[Condition]:
    """Present only when it is true."""
    if facts.accepted.status == FALSE and (facts.accepted.reason in STALLING or facts.invalid):
        return [Condition("Stalled", TRUE, facts.accepted.reason, facts.accepted.message)]
    if facts.failure and facts.failure.reason in STALLING and not facts.complete:
        return [Condition("Stalled", TRUE, facts.failure.reason, facts.failure.message)]
    if facts.overdue:
        # Whoever waits has waited long enough; with the cause, because tools show no other sentence.
        return [Condition("Stalled", TRUE, "DeadlineExceeded", f"{OVERDUE} {facts.failure.message if facts.failure else ''}".strip())]
    return []


def status(facts: Facts, resolved: Json | None, now: str) -> Json:
    """The whole status; times move only when what they belong to does."""
    mdep, conditions = facts.mdep, all_of(facts)
    before = {entry["type"]: entry for entry in mdep.status.get("conditions", [])}
    verdict = next(condition for condition in conditions if condition.type == "Ready")
    result: Json = {
        "observedGeneration": mdep.generation,
        # Counted from the pods as the Deployment controller does, which tells it a moment later: what is told here is of one moment.
        "replicas": sum(not pod.leaving and not pod.over for pod in facts.observed.pods) - len(facts.pods) + facts.current_pods,
        "updatedReplicas": facts.current_pods,
        "readyReplicas": facts.ready_pods + facts.earlier_pods,
        "selector": f"{LABEL}={mdep.name}",
        "ready": f"{facts.ready_pods + facts.earlier_pods}/{facts.wanted}",
        "serving": {"current": facts.ready_pods, "previous": facts.earlier_pods},
        "reason": verdict.reason,
        "conditions": [_entry(condition, mdep.generation, before.get(condition.type), now) for condition in conditions],
    }
    if facts.observed.service:
        # Whose Service has the name otherwise nobody knows.
        result["url"] = f"http://{mdep.name}.{mdep.key.namespace}.svc/v1"
    if mdep.spec.autoscaling and not mdep.spec.suspend:
        decider = "HorizontalPodAutoscaler" if mdep.scaled_by_hpa else "Nobody" if mdep.doubt else "Load"
        result["autoscaling"] = {"replicas": facts.wanted, "decidedBy": decider}
    kept: Json = {"resolved": resolved or mdep.status.get("resolved"), "lastFailure": _last_failure(facts, now)}
    # A pod that fails again and again says each time how it starts: as long as it does, only the failure counts.
    if not facts.complete and not facts.failure:
        # What a pod says is as long as the field already, and a word of ours may stand behind it.
        kept["progress"] = clipped((facts.progress.line if facts.progress else _on_the_way(facts)) or "", 256)
    return result | {name: value for name, value in kept.items() if value}


def _on_the_way(facts: Facts) -> str | None:
    """Where the first pod that is not ready stands, before its runtime can be asked."""
    pod = min((pod for pod in facts.pods if not pod.ready), key=lambda pod: pod.name, default=None)
    if pod is None:
        return None
    if not pod.placed:
        return "waiting for a node"
    return clipped(f"starting on {pod.body['spec']['nodeName']}", 256) if pod.being_made or pod.starting else None


def _entry(condition: Condition, generation: int, before: Json | None, now: str) -> Json:
    same = before is not None and before["status"] == condition.status and before.get("observedGeneration", 0) > 0
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": clipped(condition.message, 4096),
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if same and before else now,
    }


def _last_failure(facts: Facts, now: str) -> Json | None:
    """The first occurrence's time stays while the cause is the same; its pod, as long as there is one of that name."""
    before: Json | None = facts.mdep.status.get("lastFailure")
    if facts.failure is None:
        return before
    said = clipped(facts.failure.message, 4096)
    same = before and tuple(map(before.get, ("reason", "message", "exitCode"))) == (facts.failure.reason, said, facts.failure.exit_code)
    if same and before and before.get("pod", "") in {"", *(pod.name for pod in facts.observed.pods)}:
        return before
    return facts.failure.echo(before["time"] if same and before else now) | {"message": said}


def _idle(facts: Facts) -> str:
    return "Suspended" if facts.mdep.spec.suspend else "ScaledToZero"


def _idle_message(facts: Facts) -> str:
    if facts.mdep.spec.suspend:
        return "Suspended; set spec.suspend to false to serve again."
    if facts.mdep.scales_itself and facts.mdep.doubt:
        return "Scaled to zero, and it stays so while it is not known who scales it; the condition Progressing says why."
    if facts.mdep.scales_itself and facts.accepted.status == TRUE:
        return "Scaled to zero by its load; the next request to the front door wakes it."
    return "Scaled to zero; set spec.replicas to serve again."
