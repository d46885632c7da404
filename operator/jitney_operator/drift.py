"""Does the live object already hold everything we want? Answers without a request."""

from __future__ import annotations

from typing import Any

from jitney_operator import quantities

# Their values are quantities, and the server writes them in its own way: 1024Mi becomes 1Gi.
_QUANTITIES = {"requests", "limits"}
_QUANTITY = "sizeLimit"
# As the person wrote it, with empty parts perhaps.
_THEIRS = "affinity"


def holds(live: Any, desired: Any, inside: str = "") -> bool:
    """True when `desired` is a deep subset of `live`; named list entries are matched by name, quantities by value."""
    if live is None and (desired == "" or (inside == _THEIRS and not desired)):
        # The server drops what is empty. Nothing else of ours is: false, or an emptyDir without a limit, is there or was taken away.
        return True
    if isinstance(desired, dict):
        return isinstance(live, dict) and all(holds(live.get(key), value, _place(inside, key)) for key, value in desired.items())
    if isinstance(desired, list):
        return isinstance(live, list) and _list_holds(live, desired, inside)
    if inside == "quantity" and live is not None:
        return _same_amount(live, desired)
    return bool(live == desired)


def _same_amount(live: Any, desired: Any) -> bool:
    try:
        return quantities.parse(live) == quantities.parse(desired)
    except ValueError:
        # The schema lets some through that are none, such as 1e1.5: applied, it is refused in the server's words.
        return False


def _place(inside: str, key: str) -> str:
    if inside == _THEIRS:
        return _THEIRS
    return "quantity" if inside in _QUANTITIES or key == _QUANTITY else key


def _list_holds(live: list[Any], desired: list[Any], inside: str) -> bool:
    if desired and all(isinstance(entry, dict) and "name" in entry for entry in desired):
        # Admission webhooks add containers, variables and volumes: theirs may stay.
        named = {entry.get("name"): entry for entry in live if isinstance(entry, dict)}
        return all(holds(named.get(entry["name"]), entry) for entry in desired)
    if desired and all(isinstance(entry, dict) and "uid" in entry for entry in desired):
        owners = {entry.get("uid"): entry for entry in live}
        return all(holds(owners.get(entry["uid"]), entry) for entry in desired)
    place = inside if inside == _THEIRS else ""
    return len(live) == len(desired) and all(holds(have, want, place) for have, want in zip(live, desired, strict=True))
