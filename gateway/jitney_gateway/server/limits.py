"""How much each key may still ask for in this minute. Pure: it counts what it is told, and the clock is an argument.

A bucket holds one minute's worth and fills all the time, so that a key may use its minute at once and then goes on at its rate. The counts
are this front door's own: with several, each gives every key its share of the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from jitney_gateway.server.keys import Key

MINUTE = 60.0


class Bucket:
    """`level` is what is left. It may be below nothing: a debt, which is filled first."""

    def __init__(self, capacity: float, now: float, level: float) -> None:
        self.capacity, self.level, self._seen = capacity, level, now

    def fill(self, capacity: float, now: float) -> None:
        """`capacity` may have been changed; what was used stays used."""
        self.level += capacity - self.capacity
        self.capacity = capacity
        self.level = min(capacity, self.level + (now - self._seen) * capacity / MINUTE)
        self._seen = now

    def seconds_until(self, level: float) -> float:
        return max(0.0, (level - self.level) * MINUTE / self.capacity)


@dataclass(frozen=True)
class Refusal:
    """Which limit is used up, and after how many whole seconds it is worth another try."""

    limit: str
    seconds: int


def share(limit: int, doors: int) -> float:
    """Of one front door among so many. Never less than one: a key that may ask once may ask everywhere."""
    return max(1.0, limit / doors)


class Limits:
    """For all keys of a front door. `doors` is how many take requests, itself among them."""

    def __init__(self, clock: Callable[[], float], shared: bool = False) -> None:
        """With `shared`, others may have given a key what it has in this minute, which is not known here: then buckets are filled from now
        on, and not full already. One that comes in place of another would give it all again."""
        self._clock, self.doors = clock, 1
        self._begun = clock() if shared else -math.inf
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}

    def take(self, key: Key) -> Refusal | None:
        """One request of this key, which is counted; or why not, and then it is not.

        What a request costs in tokens is known when it is over. So one is let in while there is anything left, and what it used more is a
        debt, which those after it wait for.
        """
        requests = self._bucket(self._requests, key.id, key.requests)
        tokens = self._bucket(self._tokens, key.id, key.tokens)
        if tokens and tokens.level <= 0:
            return self._refusal(tokens, "tokens", key.tokens)
        if requests:
            if requests.level < 1:
                return self._refusal(requests, "requests", key.requests)
            requests.level -= 1
        return None

    def spend(self, key: Key, tokens: int) -> None:
        """What an answer came to."""
        if bucket := self._bucket(self._tokens, key.id, key.tokens):
            bucket.level -= tokens

    def _bucket(self, buckets: dict[str, Bucket], name: str, limit: int | None) -> Bucket | None:
        if limit is None:
            buckets.pop(name, None)
            return None
        now, capacity = self._clock(), share(limit, self.doors)
        if (bucket := buckets.get(name)) is None:
            # Who has asked nothing yet may always ask once.
            bucket = buckets[name] = Bucket(capacity, now, max(1.0, capacity * min(1.0, (now - self._begun) / MINUTE)))
        bucket.fill(capacity, now)
        return bucket

    def _refusal(self, bucket: Bucket, what: str, limit: int | None) -> Refusal:
        words = f"{limit} {what} per minute" if self.doors == 1 else f"share of {limit} {what} per minute, which is {bucket.capacity:.10g},"
        return Refusal(words, max(1, math.ceil(bucket.seconds_until(1))))
