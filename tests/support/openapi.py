"""Requests as a front door's own OpenAPI document allows them, made up by schemathesis: the same ones each time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

SECONDS = 60
# What is not supported.
ABSENT = 501
# What ends a model, or starts more processes of it.
CHANGING = frozenset(
    {
        "DELETE /v1/models/{uid}",
        "POST /v1/models/{uid}/cancel",
        "POST /v1/models/{uid}/replicas",
        "DELETE /v1/models/{uid}/replicas/{replica}",
    }
)
# What can be answered, and what may be asked beside it.
ASKING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 4},
}
SAMPLING = ("temperature", "top_p", "stream", "request_id")
# Of a model that is served these can be answered as they are asked.
ANSWERED = ("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models/{uid}", "GET /v1/models/{uid}/replicas")


@dataclass
class Asked:
    """`faults` has how an operation was answered with a 5xx, by its label, but with a 501 where the document says so; `answers` how often
    each status came; `bodies` are those operations that take one, and `absent` those that the document says are answered with 501."""

    faults: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Counter[int]] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)

    def unanswered(self, *more: str) -> dict[str, Counter[int]]:
        """What should have been answered with 200 at least once, and was not."""
        return {label: self.answers[label] for label in (*ANSWERED, *more) if not self.answers[label][200]}


def asked(
    url: str,
    examples: int,
    mended: Callable[[Any], None] = lambda case: None,
    left_out: frozenset[str] = frozenset(),
    headers: dict[str, str] | None = None,
    document_headers: dict[str, str] | None = None,
) -> Asked:
    """So many `examples` of each operation but those `left_out`, each as `mended` makes it and with these `headers`. The document may want
    others."""
    found = Asked()
    few = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    document = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=document_headers or headers or {})
    operations = [one.ok() for one in document.get_all_operations()]
    assert left_out <= {operation.label for operation in operations}
    for operation in operations:
        if operation.label not in left_out:
            given(case=operation.as_strategy())(few(_asking(operation, found, mended, headers or {})))()
    return found


def asked_about(url: str, uid: str) -> Asked:
    """All that leaves the model of this uid as it is, and about it wherever a model is named. Nothing is waited for that has no end."""

    turns = itertools.cycle((True, False))

    def mended(case: Any) -> None:
        if "uid" in case.path_parameters:
            case.path_parameters["uid"] = uid
        if isinstance(case.body, dict) and case.operation.path in ASKING:
            case.body["model"] = uid
            # Nearly everything made up is refused; every second one is what can be answered, with the other fields as they were made up.
            if next(turns):
                case.body = {key: value for key, value in case.body.items() if key in SAMPLING} | {
                    "model": uid,
                    **ASKING[case.operation.path],
                }
        case.query = {**(case.query or {}), "wait_ready": "false", "follow": "false"}

    return asked(url, 10, mended, CHANGING)


def _asking(operation: Any, found: Asked, mended: Callable[[Any], None], headers: dict[str, str]) -> Callable[..., None]:
    if operation.method == "post" and operation.body:
        found.bodies.append(operation.label)
    answers = found.answers.setdefault(operation.label, Counter())
    if str(ABSENT) in operation.definition.raw["responses"]:
        found.absent.add(operation.label)

    def ask(case: Any) -> None:
        mended(case)
        answer = case.call(timeout=SECONDS, headers=headers)
        answers[answer.status_code] += 1
        if answer.status_code >= 500 and not (answer.status_code == ABSENT and operation.label in found.absent):
            found.faults[operation.label] = f"{case.as_curl_command()}: {answer.text}"

    return ask
