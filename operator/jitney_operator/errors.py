"""The operator's errors, drawn as a tree; reconcile turns them into conditions, nothing else does."""

from __future__ import annotations

_UNDECLARED = "field not declared in schema"
_FINAL = (_UNDECLARED, "failed calling webhook")


class OperatorError(Exception):
    """Everything this room raises on purpose."""


class SettingsError(OperatorError):
    """The environment or the configuration file cannot be used; the process ends with its sentence."""


class Rejected(OperatorError):
    """The spec is not accepted: `reason` is the one word, the text one sentence with the way out. `invalid`: the server will never take a
    child as this spec has it."""

    def __init__(self, reason: str, message: str, *, invalid: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.invalid = invalid


class ClusterError(OperatorError):
    """The API server refused or did not answer; `status` is the HTTP status, 0 without an answer."""

    def __init__(self, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{status}: {message}" if status else message)
        self.status = status
        self.message = message
        # Understood and not wanted: the same request will be refused again. An apply with an unknown field comes back as a 500.
        # So does an admission webhook that does not answer, which may last for ever.
        self.final = status in (400, 403, 422) or any(words in message for words in _FINAL)
        # What is left of these may pass: a right, room in a quota, another policy, a webhook that answers.
        self.invalid = status in (400, 422) or _UNDECLARED in message
        self.retry_after = retry_after


class StoreLost(OperatorError):
    """The watches were lost during a look, and with them the store: what it lacks now says nothing of the cluster."""


class NotLeading(OperatorError):
    """A write was about to start and the lease is another process's, or was not renewed in time."""
