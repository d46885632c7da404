"""What the operator is asked of a resource before it is made, and what its answer means. Pure."""

from __future__ import annotations

from jitney_gateway.fit import Fit, Verdict
from jitney_gateway.model import Json

PATH = "/v1/verdict"
# Variables whose values the operator's estimate depends on, and which are no secrets.
COUNTED = ("JITNEY_DTYPE", "JITNEY_KERNEL")


def question(body: Json) -> Json:
    """A manifest of `body`. Values of all other variables stay here: they may be secrets, and the answer does not depend on them."""
    metadata = {name: body["metadata"][name] for name in ("name", "namespace")}
    spec = dict(body["spec"])
    if "env" in spec:
        spec["env"] = [entry if entry["name"] in COUNTED else {"name": entry["name"]} for entry in spec["env"]]
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": spec}


def fit(answer: Json) -> Fit:
    """LookupError or TypeError where it is not the operator's."""
    if not answer["accepted"]:
        return Fit(Verdict.DOES_NOT_FIT if answer["fits"] is False else Verdict.REFUSED, answer["message"])
    resolved = answer["resolved"]
    if not answer["fits"]:
        return Fit(Verdict.UNKNOWN, f"{answer['message']} It would get the profile {resolved['profile']}.")
    parts = resolved["breakdown"]
    figures = f"weights {parts['weights']}, keys and values {parts['kvCache']}, overhead {parts['overhead']}"
    words = [f"A replica needs {resolved['estimatedMemory']} of the {answer['memory']} of the profile {resolved['profile']} ({figures})."]
    words += [resolved["explanation"]] if "explanation" in resolved else []
    return Fit(Verdict.FITS, " ".join([*words, "A node that has room for it is looked for after the launch."]))


def unsaid(why: str = "") -> Fit:
    """Where the operator was not heard; `why` begins with a comma or is empty."""
    words = f"the cluster accepts the resource; whether a pod finds room is decided by the operator{why}, and told by the model's status"
    return Fit(Verdict.UNKNOWN, f"{words} right after the launch")
