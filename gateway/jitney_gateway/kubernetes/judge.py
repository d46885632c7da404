"""Asks the operator what it would say of a resource. Any of its replicas answers, and none keeps the question."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from jitney_gateway.fit import Fit
from jitney_gateway.kubernetes import verdict
from jitney_gateway.model import Json

logger = logging.getLogger(__name__)

# Somebody waits before a form, and a launch does without the answer. One that too many ask at once is asked again after PAUSE.
SECONDS, PAUSE = 2.0, 0.5


class Judge:
    def __init__(self, url: str) -> None:
        """`url` without a path; empty: nobody is asked."""
        self._url = url.rstrip("/")

    async def fit(self, body: Json) -> Fit:
        """UNKNOWN where there is no answer within SECONDS."""
        if not self._url:
            return verdict.unsaid()
        try:
            async with asyncio.timeout(SECONDS):
                return verdict.fit(await self._answer(verdict.question(body)))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("the operator gives no verdict at %s: %s", self._url, str(error) or type(error).__name__)
            return verdict.unsaid(", which could not be asked")

    async def _answer(self, question: Json) -> Json:
        try:
            return await self._ask(question)
        except aiohttp.ClientResponseError as error:
            if error.status != 503:
                raise
        await asyncio.sleep(PAUSE)
        return await self._ask(question)

    async def _ask(self, question: Json) -> Json:
        async with (
            # A connection for each question: a form is seldom, and the next replica may know more than one that has gone.
            aiohttp.ClientSession(raise_for_status=True) as client,
            client.post(self._url + verdict.PATH, json=question, allow_redirects=False) as response,
        ):
            found: Json = await response.json()
            return found
