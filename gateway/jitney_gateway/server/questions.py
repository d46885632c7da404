"""The questions that are under way, and the names by which a client may end its own. Lives on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jitney_gateway.errors import GatewayError
from jitney_gateway.server.question import Question

# Who asked, the model's uid, and the client's name for the question: so nobody ends another's.
Name = tuple[str, str, str]
# Names of one key that wait for their questions. Who sends more of them loses his own oldest.
MOST_AWAITED = 1024


@dataclass
class _Awaited:
    """A question that was ended before it came: until when that holds, and whether it has come and was refused."""

    until: float
    caught: bool = False


class Questions:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._live: dict[Question, Name] = {}
        # By key.
        self._awaited: dict[str, dict[Name, _Awaited]] = {}
        self._closed: GatewayError | None = None
        self._none = asyncio.Event()
        self._none.set()

    def begin(self, name: Name) -> Question:
        """The last part may be empty. GatewayError (499) where it was ended before it came, and what `close` was given after that."""
        if self._closed:
            raise self._closed.again()
        awaited = self._awaited.get(name[0], {}).get(name)
        if awaited and awaited.until > self._clock():
            awaited.caught = True
            raise GatewayError(499, f"the request was aborted before it came, by its request_id {name[2]}", code="aborted")
        question = Question()
        self._live[question] = name
        self._none.clear()
        return question

    def forget(self, question: Question) -> None:
        """Safe to repeat."""
        self._live.pop(question, None)
        if not self._live:
            self._none.set()

    @contextmanager
    def under_way(self, name: Name) -> Iterator[Question]:
        """As `begin`, and forgotten after the block."""
        question = self.begin(name)
        try:
            yield question
        finally:
            self.forget(question)

    def end(self, name: Name) -> bool:
        """Whether there was one, or more, or one that was refused meanwhile: who aborts again and again hears of it, and the name is
        free."""
        live = [question for question, other in self._live.items() if other == name] if name[2] else []
        for question in live:
            question.end()
        if live:
            return True
        awaited = self._awaited.get(name[0], {}).get(name)
        if awaited is None or not awaited.caught:
            return False
        self.await_end(name, 0)
        return True

    def await_end(self, name: Name, seconds: float) -> None:
        """A question of this name that comes within so many seconds is refused."""
        now, key = self._clock(), name[0]
        mine = {other: awaited for other, awaited in self._awaited.pop(key, {}).items() if awaited.until > now and other != name}
        if seconds > 0:
            if len(mine) >= MOST_AWAITED:
                del mine[next(iter(mine))]
            mine[name] = _Awaited(now + seconds)
        if mine:
            self._awaited[key] = mine

    def close(self, error: GatewayError) -> None:
        """None is begun any more; those under way go on."""
        self._closed = error

    async def none(self) -> None:
        """Returns once none is under way."""
        await self._none.wait()

    def end_all(self, error: GatewayError) -> None:
        """Also those that are still to come."""
        self.close(error)
        for question in tuple(self._live):
            question.end(error.again())
