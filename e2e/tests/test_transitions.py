"""Every new state of every resource is told in one Event. Runs near the end, on what independent watches saw of the whole suite."""

from __future__ import annotations

import contextlib

from product.eye import Eye

from cluster.kubectl import wait_for

State = tuple[str, str]


def test_each_transition_is_one_event(eye: Eye) -> None:
    """An Event comes right after the status that it tells of."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: _told(eye) == _transitions(eye), 10, "Event for each transition")
    transitions, told = _transitions(eye), _told(eye)
    print(f"\n{sum(map(len, transitions.values()))} transitions of {len(transitions)} resources, {sum(map(len, told.values()))} Events")
    assert any(transitions.values()), "the watches saw nothing"
    assert told == transitions


def _transitions(eye: Eye) -> dict[str, list[str]]:
    """Reasons of Ready, by the resource's uid, each time its status or reason moved; none for one that stayed as it was."""
    found: dict[str, list[str]] = {}
    last: dict[str, State] = {}
    for body in eye.seen("modeldeployments"):
        ready = next(entry for entry in body["status"]["conditions"] if entry["type"] == "Ready")
        uid, state = body["metadata"]["uid"], (ready["status"], ready["reason"])
        # Of a resource that was there before the watches, not everything was seen.
        if uid not in last and body["status"]["observedGeneration"] == 0:
            found[uid], last[uid] = [], state
        if uid in last and last[uid] != state:
            found[uid].append(ready["reason"])
            last[uid] = state
    return found


def _told(eye: Eye) -> dict[str, list[str]]:
    """Reasons of the Events of each of these resources, in the order in which they were made."""
    found: dict[str, list[str]] = {uid: [] for uid in _transitions(eye)}
    names = set()
    for event in eye.seen("events"):
        regards, metadata = event["involvedObject"], event["metadata"]
        if regards.get("uid") in found and metadata["uid"] not in names:
            names.add(metadata["uid"])
            found[regards["uid"]].append(event["reason"])
    return found
