"""Pages of a pool that takes its memory as it is written, there before a step reaches them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time

# Bytes of a page where the system gives large ones (x86-64, most arm64).
_HUGE_PAGE = 2 * 1024**2
_PAGE = 4096
# Bytes that are there ahead of what is used: what is taken before the first step, what the thread keeps while nothing runs, and what the
# steps themselves keep.
_FIRST = 256 * 1024**2
_MARGIN = 1024**3
_SHORT = 16 * _HUGE_PAGE
# Linux 5.14.
_MADV_POPULATE_WRITE = 23
_libc = ctypes.CDLL(None)
# Seconds without a step before the thread goes on, and how often it looks.
_QUIET, _LOOK = 0.1, 0.05


class PagesAhead:
    """Of the `blocks` blocks of `block` bytes each that begin at `address`; whoever owns them closes this before they go.

    A new page costs a virtual machine up to 5 ms, and rows that began together come to new ones together. So a thread takes them ahead
    while no step runs: beside one it would only take its core away. It knows the memory by its address: a reference would keep the memory
    of a pool that is gone, and let go of it while the interpreter ends, which torch does not survive.
    """

    def __init__(self, address: int, blocks: int, block: int) -> None:
        self._address, self._size, self._block = address, blocks * block, block
        # Bytes that are some block's by now, and those that are there, the next ones' among them.
        self._used = self._there = 0
        # What the thread keeps ahead, 0 where the system is too old to let it.
        self._margin = _MARGIN
        self._thread: threading.Thread | None = None
        # When a step began, on the monotonic clock.
        self._last = 0.0
        # Held while a page is taken. The thread itself may be the one that collects the garbage and closes.
        self._taking = threading.RLock()
        self._closed = False
        # Whether there is nothing more to take.
        self.filled = False

    def reach(self, highest: int) -> None:
        """Called with the highest block of every step before it runs, and with -1 before the first.

        Where no page is left a step takes one itself, as long as few are there. What was written was some step's: nobody has anything
        there yet.
        """
        size = self._size
        self._last = time.monotonic() if highest >= 0 else 0.0
        self._used = max(self._used, (highest + 1) * self._block)
        # Looked at once: the thread, in the middle of a page, may be about to move it.
        self._there = there = max(self._there, self._used)
        if highest < 0:
            self._take(_FIRST)
        elif there < min(size, self._used + _SHORT):
            ctypes.memset(self._address + there, 0, 1)
            self._there = max(self._there, there + _HUGE_PAGE)
        if self._there < min(size, self._used + self._margin // 2) and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._fill, name="jitney-kv-memory", daemon=True)
            self._thread.start()
        self.filled = self._there >= size

    def close(self) -> None:
        """Nothing is taken afterwards. Waits for a page that is being taken."""
        with self._taking:
            self._closed = True

    def _fill(self) -> None:
        """Thread of its own, for as long as it takes."""
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        self._take(self._margin)

    def _take(self, ahead: int) -> None:
        """Pages, until so many bytes are there, whenever no step runs. What is in them stays as it is, so a step that writes there is not
        in the way; a page that both take is taken once."""
        first, size = self._address, self._size
        while not self._closed and (at := self._there) < min(size, self._used + ahead):
            if time.monotonic() - self._last < _QUIET:
                time.sleep(_LOOK)
                continue
            begin, end = (place // _PAGE * _PAGE for place in (first + at, first + min(at + _HUGE_PAGE, size)))
            place, length = ctypes.c_void_p(begin), ctypes.c_size_t(end - begin)
            with self._taking:
                if end > begin and not self._closed and _libc.madvise(place, length, _MADV_POPULATE_WRITE):
                    self._margin = 0
                    return
            self._there = max(self._there, at + _HUGE_PAGE)
