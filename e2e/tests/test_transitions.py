"""Every new state of every resource is told in one Event. Runs near the end, on what independent watches saw of the whole suite."""

from __future__ import annotations

import contextlib
from collections import Counter
from itertools import pairwise

from product.eye import Eye, Seen

from cluster.kubectl import wait_for

# Condition -> status and reason.
State = dict[str, tuple[str, str]]
# One that told something, and how what it told begins: an Event has room for less than a condition.
Told = tuple[str, str]
BEGINNING = 200


def test_each_transition_is_one_event(eye: Eye) -> None:
    """An Event comes right after the status that it tells of."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: _told(eye) == _transitions(eye), 10, "Event for each transition")
    transitions, told = _transitions(eye), _told(eye)
    reasons = Counter(reason for found in transitions.values() for reason, _ in found)
    print(f"\n{sum(map(len, transitions.values()))} transitions of {len(transitions)} resources, {sum(map(len, told.values()))} Events")
    print(", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())))
    assert any(transitions.values()), "the watches saw nothing"
    assert told == transitions


def _transitions(eye: Eye) -> dict[str, list[Told]]:
    """By the resource's uid, what each of its states tells that the one before did not; nothing where it tells nothing new."""
    found: dict[str, list[Told]] = {}
    for uid, states in _states(eye).items():
        news = ((after, _news(_state(before), _state(after))) for before, after in pairwise(states))
        found[uid] = [_sentence(after, kind) for after, kind in news if kind]
    return found


def _states(eye: Eye) -> dict[str, list[Seen]]:
    """Of resources that the watches have seen from their beginning."""
    found: dict[str, list[Seen]] = {}
    for body in eye.seen("modeldeployments"):
        uid = body["metadata"]["uid"]
        if uid in found or body["status"]["observedGeneration"] == 0:
            found.setdefault(uid, []).append(body["status"])
    return found


def _state(status: Seen) -> State:
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}


def _news(before: State, after: State) -> str | None:
    """The condition that a person must be told of. Ready has the first word for all that keeps a resource from being ready.

    Where it stays as it was, a rollout may have run out of time or an autoscaler be lost (Progressing), somebody be needed (Stalled, with
    the cause), or who answers be another matter. That nobody is wanted any more is no outage, and Ready tells it.
    """
    moved = {kind for kind in before.keys() | after.keys() if before.get(kind) != after.get(kind)}
    if "Ready" in moved:
        return "Ready"
    if "Stalled" in moved & after.keys():
        return "Stalled"
    if "Progressing" in moved:
        return "Progressing"
    served, serves = (state.get("Available", ("", ""))[0] == "True" for state in (before, after))
    return "Available" if served != serves and after["Available"][1] in ("Serving", "NoReadyReplica") else None


def _sentence(status: Seen, kind: str) -> Told:
    entry = next(entry for entry in status["conditions"] if entry["type"] == kind)
    progress = f" ({status['progress']})" if kind == "Ready" and "progress" in status else ""
    return entry["reason"], f"{entry['message']}{progress}"[:BEGINNING]


def _told(eye: Eye) -> dict[str, list[Told]]:
    """Reasons and notes of the Events of each of these resources, in the order in which they were made."""
    found: dict[str, list[Told]] = {uid: [] for uid in _states(eye)}
    names = set()
    for event in eye.seen("events"):
        regards, metadata = event["involvedObject"], event["metadata"]
        if regards.get("uid") in found and metadata["uid"] not in names:
            names.add(metadata["uid"])
            found[regards["uid"]].append((event["reason"], event["message"][:BEGINNING]))
    return found
