"""Consistent hashing with bounded load (Mirrokni, Thorup, Zadimoghaddam 2016). Pure.

A key meets the members always in the same order, at every front door and after every restart, so that requests with one key reach one
member. A member takes a key only while its load stays near the mean; what is too much for it goes to the next one of that key's order.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping

# How often a member stands on the ring: the shares of the members then differ by some 5 %.
POINTS = 400
# How far above the mean a member may be loaded.
SLACK = 1.25


class Ring:
    """Members come and go by making another ring: only the keys of those that went or came change their place."""

    def __init__(self, members: Iterable[str]) -> None:
        self.members = frozenset(members)
        self._points = sorted(point for member in self.members for point in _points(member))

    def order(self, key: bytes) -> Iterator[str]:
        """Every member once, beginning with the key's own."""
        start = bisect.bisect_left(self._points, (_place(key), ""))
        told: set[str] = set()
        for index in range(len(self._points)):
            member = self._points[(start + index) % len(self._points)][1]
            if member not in told:
                told.add(member)
                yield member
                if len(told) == len(self.members):
                    return

    def choose(self, key: bytes, loads: Mapping[str, int]) -> str:
        """The first of the key's order that may take one more. `loads` has who may be chosen, at least one member, and what each has."""
        most = ceiling(loads.values())
        return next(member for member in self.order(key) if loads.get(member, most) + 1 <= most)


@functools.lru_cache(maxsize=256)
def ring_of(members: frozenset[str]) -> Ring:
    """The same members have the same ring, whoever asks."""
    return Ring(members)


def ceiling(loads: Iterable[int]) -> int:
    """What a member may have when one more request has come: there is always one that has less."""
    found = list(loads)
    return math.ceil(SLACK * (sum(found) + 1) / len(found))


# A ring is made anew whenever a replica comes or goes; the places of those that stay are not.
@functools.lru_cache(maxsize=4096)
def _points(member: str) -> tuple[tuple[int, str], ...]:
    return tuple((_place(f"{number} {member}".encode()), member) for number in range(POINTS))


def _place(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
