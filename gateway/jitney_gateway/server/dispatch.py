"""From a question to the answer's first byte: finds a replica, waits for one where the model has none, tries another where one fails.

Until the first byte nothing has been told to the client, and a question changes nothing in a runtime, so it may be asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

import aiohttp

from jitney_gateway.backend import Backend
from jitney_gateway.destination import Destination, Prospect
from jitney_gateway.errors import GatewayError, unknown_model
from jitney_gateway.routing import prefix
from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.routing.router import Crowded, Full, Router, Turn

# Replicas that one question may be put to.
ATTEMPTS = 3
# Seconds after which a client may try again: a model that starts or wakes, and anything that is over sooner.
STARTING_SECONDS, SOON_SECONDS = 5, 1
# A model that is asleep is woken again after so many seconds, should the wake have been lost on somebody who scaled it down once more.
WAKE_SECONDS = 5.0


class Dispatch:
    """Lives on the event loop."""

    def __init__(self, backend: Backend, bounds: Bounds) -> None:
        self._backend, self._bounds = backend, bounds
        self._router = Router(bounds, lambda: asyncio.get_running_loop().time())

    @property
    def in_flight(self) -> int:
        return self._router.in_all

    @property
    def held(self) -> int:
        return self._router.waiting

    def find(self, uid: str) -> Destination | None:
        return self._backend.destination(uid)

    def known(self, uid: str) -> Destination:
        """GatewayError (404) where there is no such model."""
        found = self.find(uid)
        if found is None:
            raise unknown_model(uid, self._backend.uids())
        return found

    async def ask(
        self, client: aiohttp.ClientSession, uid: str, path: str, body: dict[str, Any], headers: Mapping[str, str]
    ) -> tuple[aiohttp.ClientResponse, Turn]:
        """The answer's head, and the turn that ends with it. Cancelled where the client goes away or aborts."""
        try:
            self._router.admit()
            return await self._ask(client, uid, path, body, headers)
        except Full as error:
            raise GatewayError(429, f"{error}; try again", code="overloaded", retry_after=SOON_SECONDS) from None

    async def _ask(
        self, client: aiohttp.ClientSession, uid: str, path: str, body: dict[str, Any], headers: Mapping[str, str]
    ) -> tuple[aiohttp.ClientResponse, Turn]:
        destination = self.known(uid)
        # Its runtimes know a model of another namespace by its plain name.
        data = json.dumps({**body, "model": destination.name}).encode()
        key, failed = prefix.key_of(body), set[str]()
        while len(failed) < ATTEMPTS:
            turn = self._take(destination, key, failed) or await self._wait(uid, key, failed)
            try:
                answer = await client.post(f"{turn.address}{path}", data=data, headers=headers, allow_redirects=False)
            except aiohttp.ClientError:
                answer = None
            except BaseException:
                turn.release()
                raise
            # A runtime's 503 says that it has begun nothing: it leaves, has not loaded yet, or its engine is dead.
            if answer is not None and answer.status != 503:
                return answer, turn
            if answer is not None:
                answer.close()
            turn.release()
            self._router.unreachable(turn.address)
            failed.add(turn.address)
            destination = self.known(uid)
        raise self._unreachable(uid, failed)

    def _take(self, destination: Destination, key: bytes | None, failed: set[str]) -> Turn | None:
        return self._router.take(destination.uid, destination.addresses, key, failed)

    async def _wait(self, uid: str, key: bytes | None, failed: set[str]) -> Turn:
        """A turn at a replica that comes while the question is held."""
        self._stay_or_leave(self.known(uid), failed)
        try:
            with self._router.held(uid):
                async with asyncio.timeout(self._bounds.hold_seconds):
                    return await self._come(uid, key, failed)
        except Crowded as error:
            words = f"{error}; it has no replica now: {self.known(uid).message}"
            raise GatewayError(503, words, code="model_starting", retry_after=STARTING_SECONDS) from None
        except TimeoutError:
            words = f"{uid} has no replica after {math.ceil(self._bounds.hold_seconds)} s of waiting: {self.known(uid).message}"
            raise GatewayError(503, words, code="model_starting", retry_after=STARTING_SECONDS) from None

    async def _come(self, uid: str, key: bytes | None, failed: set[str]) -> Turn:
        woken = -math.inf
        while True:
            destination = self.known(uid)
            if turn := self._take(destination, key, failed):
                return turn
            self._stay_or_leave(destination, failed)
            now = asyncio.get_running_loop().time()
            if destination.prospect is Prospect.ASLEEP and now - woken >= WAKE_SECONDS:
                woken = now
                await self._backend.wake(uid)
                # It may have come meanwhile.
                continue
            # Not wait_for, which keeps a cancellation to itself where what it waits for comes at the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAKE_SECONDS):
                    await self._backend.moved()

    def _stay_or_leave(self, destination: Destination, failed: set[str]) -> None:
        """GatewayError (503) where waiting is of no use."""
        uid, message = destination.uid, destination.message
        if destination.addresses:
            raise self._unreachable(uid, failed)
        match destination.prospect:
            case Prospect.FAILED:
                raise GatewayError(503, f"{uid} cannot be served: {message}", code="model_failed")
            case Prospect.SUSPENDED:
                raise GatewayError(503, f"{uid} is suspended: {message}", code="model_suspended")
            case Prospect.STARTING:
                raise GatewayError(503, f"{uid} is starting: {message}", code="model_starting", retry_after=STARTING_SECONDS)

    def _unreachable(self, uid: str, failed: set[str]) -> GatewayError:
        words = f"{uid}: each of {len(failed)} replicas asked went away before it answered, or took no request; try again"
        return GatewayError(503, words, code="unavailable", retry_after=SOON_SECONDS)
