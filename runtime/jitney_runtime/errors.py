"""The tree of errors.

JitneyError
├── RequestError              the client's; becomes an HTTP answer
│   ├── InvalidRequest        400
│   ├── RequestTooLong        400
│   ├── ModelUnknown          404
│   ├── Unauthenticated       401
│   ├── EngineOverloaded      429 with Retry-After
│   ├── EngineFailed          500
│   └── EngineUnavailable     503 with Retry-After
└── StartError                the pod's; becomes an exit code and one line in the termination message
    ├── ModelNotFound         10
    ├── Unauthorized          11
    ├── HubUnreachable        12
    ├── DiskFull              13
    ├── OutOfMemory           14
    ├── GPUOutOfMemory        15
    ├── DeviceNotFound        16
    ├── NotSupportedYet       17
    ├── CacheNotWritable      18
    └── ModelDamaged          19
"""

from __future__ import annotations


class JitneyError(Exception):
    """Root of everything raised on purpose."""


class RequestError(JitneyError):
    """A request that is refused. `param` names the field at fault, if one is."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(RequestError):
    """A parameter has a value that cannot be served."""


class ModelUnknown(RequestError):
    """The request names a model that this server does not serve."""

    status = 404
    code = "model_not_found"


class RequestTooLong(RequestError):
    """The prompt, or prompt and answer together, exceed the context window."""

    code = "context_length_exceeded"


class EngineOverloaded(RequestError):
    """The waiting queue is full; try again after `retry_after` seconds."""

    status = 429
    code = "overloaded"
    kind = "rate_limit_error"
    retry_after = 1


class EngineFailed(RequestError):
    """The step that computed this request failed."""

    status = 500
    code = "engine_error"
    kind = "server_error"


class EngineUnavailable(RequestError):
    """The model is still loading, the server is leaving, or the engine's loop is dead."""

    status = 503
    code = "unavailable"
    kind = "server_error"
    retry_after = 5


class Unauthenticated(RequestError):
    """The API key is missing or wrong."""

    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"


class StartError(JitneyError):
    """The server cannot serve. `exit_code` is what the process ends with; `reason` is the word shown on the resource.

    The operator compares its sentence across restarts, but for times, ids and addresses.
    """

    exit_code = 1

    @property
    def reason(self) -> str:
        return type(self).__name__


class Crashed(StartError):
    """Nobody knows what to do about it: the exception's or the signal's own name says what it was."""

    def __init__(self, message: str, exit_code: int = StartError.exit_code) -> None:
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def reason(self) -> str:
        return "CrashLoop"


class EngineGone(Crashed):
    """The process that holds the model has ended without a word to the first one. More than 128 is a signal's number."""


class ModelNotFound(StartError):
    exit_code = 10


class Unauthorized(StartError):
    exit_code = 11


class HubUnreachable(StartError):
    exit_code = 12


class DiskFull(StartError):
    exit_code = 13


class OutOfMemory(StartError):
    exit_code = 14


class GPUOutOfMemory(StartError):
    exit_code = 15


class DeviceNotFound(StartError):
    exit_code = 16


class NotSupportedYet(StartError):
    exit_code = 17


class CacheNotWritable(StartError):
    exit_code = 18


class ModelDamaged(StartError):
    exit_code = 19
