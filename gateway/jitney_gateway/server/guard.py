"""Before every route: who may come in, from where, with how much, and how often.

Plain ASGI: it stands in no stream's way, and a client that goes away is heard of behind it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jitney_gateway.errors import GatewayError
from jitney_gateway.server import told
from jitney_gateway.server.intake import LONGEST_HEAD, MEBIBYTE, Bodies, Intake, too_large
from jitney_gateway.server.keyring import Keyring
from jitney_gateway.server.keys import Key
from jitney_gateway.server.limits import Limits
from jitney_gateway.server.metrics import Metrics
from jitney_gateway.server.visit import Visit, current

# Read without a key: by the kubelet and by Prometheus, by a client that wants to know whether it needs one, and the page, which then asks
# the person who sits before it.
OPEN = {"/livez", "/readyz", "/metrics", "/v1/cluster/auth", "/token", "/"}
OPEN_FOLDER = "/page"
# What a key's limits count, and the metrics tell.
ANSWERS = {"/v1/chat/completions", "/v1/completions"}
HARMLESS = {"GET", "HEAD", "OPTIONS"}
PORTS = {"http": 80, "https": 443}
OVER_LIMIT = "rate_limit_exceeded"
# No browser takes an answer for something other than it says.
NOSNIFF = (b"x-content-type-options", b"nosniff")


@dataclass(frozen=True)
class Terms:
    """On what terms requests are taken. Without a `keyring` nobody needs a key. `body_bytes` is the most of one body, `all_bodies_bytes` of
    all that are not answered yet. `client_seconds` is how long a client may take for its request's head, and again for its body, and may
    leave an answer unread. `local_names` says that only names of this machine may be asked for: a web page whose own name
    was made to lead here asks by that."""

    keyring: Keyring | None = None
    body_bytes: int = 8 * MEBIBYTE
    all_bodies_bytes: int = 256 * MEBIBYTE
    client_seconds: float = 60
    local_names: bool = False


class Guard:
    def __init__(self, app: ASGIApp, terms: Terms, limits: Limits, metrics: Metrics) -> None:
        self._app, self._terms, self._limits, self._metrics = app, terms, limits, metrics
        self._bodies = Bodies(terms.all_bodies_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        visit = Visit(str(client[0]) if client else "")
        intake = Intake(receive, self._terms.body_bytes, self._terms.client_seconds, self._bodies)
        answered, closing = 0, False

        async def sending(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = int(message["status"])
                # Who answers has done with the body.
                intake.forget()
                close = [(b"connection", b"close")] if closing or intake.late else ()
                message = {**message, "headers": [*message["headers"], NOSNIFF, *close]}
            await send(message)

        try:
            self._let_in(scope, visit)
        except GatewayError as error:
            self._metrics.refused(error.status)
            if error.code == OVER_LIMIT and self._limits.doors > 1:
                # The next connection may lead to a front door that has some left. A client that is still sending where it is closed would
                # not get to read why.
                closing = True
                await intake.drop()
            await told.answer(error)(scope, receive, sending)
        else:
            token = current.set(visit)
            try:
                await self._app(scope, intake, sending)
            finally:
                current.reset(token)
        finally:
            intake.forget()
            if asks(scope):
                self._metrics.answered(visit, answered or 499)

    def _let_in(self, scope: Scope, visit: Visit) -> None:
        """GatewayError where it is not."""
        # The server bounds only what it has not seen the end of.
        if length_of_head(scope) > LONGEST_HEAD:
            raise GatewayError(431, f"the request's head is longer than {LONGEST_HEAD // 1024} KiB", code="too_large")
        headers = Headers(scope=scope)
        if self._terms.local_names and not is_local_name(headers.get("host")):
            words = (
                "without keys only names of this machine, such as localhost, may be asked for; start with --keys-file to be asked by others"
            )
            raise GatewayError(403, words, code="host_not_allowed")
        if scope["method"] not in HARMLESS and is_foreign(headers.get("origin"), headers.get("host")):
            raise GatewayError(403, "web pages of other origins may change nothing here", code="origin_not_allowed")
        if self._terms.keyring and not is_open(scope["path"]):
            visit.key = known(self._terms.keyring, headers.get("authorization"))
        length = headers.get("content-length", "")
        # A length of a thousand digits is no number that int() reads; the server refuses it anyway.
        if length.isdecimal() and len(length) < 20 and int(length) > self._terms.body_bytes:
            raise too_large(self._terms.body_bytes)
        if visit.key and asks(scope) and (refusal := self._limits.take(visit.key)):
            words = f"the key {visit.key.id} has used up its {refusal.limit} at this front door"
            raise GatewayError(429, words, code=OVER_LIMIT, retry_after=refusal.seconds)


def length_of_head(scope: Scope) -> int:
    line = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def asks(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] in ANSWERS


def is_open(path: str) -> bool:
    return path in OPEN or path.rpartition("/")[0] == OPEN_FOLDER


def known(keyring: Keyring, authorization: str | None) -> Key:
    """GatewayError (401) where it is no key of ours."""
    scheme, _, secret = (authorization or "").partition(" ")
    found = keyring.find(secret.strip()) if scheme.lower() == "bearer" else None
    if found is None:
        word = "wrong" if secret else "missing"
        words = f"the API key is {word}: send it as Authorization: Bearer KEY (`jitney`: --api-key or JITNEY_API_KEY)"
        raise GatewayError(401, words, code="invalid_api_key")
    return found


def is_foreign(origin: str | None, host: str | None) -> bool:
    """Whether a browser sends this for a page that did not come from here. What is no browser sends no origin."""
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
        asked = urlsplit(f"{parts.scheme}://{host}")
        usual = PORTS.get(parts.scheme)
        return usual is None or (parts.hostname, parts.port or usual) != (asked.hostname, asked.port or usual)
    except ValueError:
        return True


def is_local_name(host: str | None) -> bool:
    """Whether this can only be this machine. A client so old that it names nobody is no browser."""
    if host is None:
        return True
    try:
        name = urlsplit(f"http://{host}").hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
