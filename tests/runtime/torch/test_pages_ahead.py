"""Memory of keys and values that is there before a step reaches it."""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from jitney_runtime.torch_backend import pages_ahead
from jitney_runtime.torch_backend.kv_cache import KVCache, LayerShape
from jitney_runtime.torch_backend.pages_ahead import PagesAhead

_libc = ctypes.CDLL(None, use_errno=True)
PAGE = 4096
# A pool is closed when it goes, and a test looks at parts of it only.
_kept: list[KVCache] = []


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    yield
    _kept.clear()


def test_a_step_without_a_free_core_takes_pages_ahead_itself(monkeypatch: pytest.MonkeyPatch):
    """One for each step at most, so that none is late for it; never in a block that is somebody's."""
    monkeypatch.setattr(pages_ahead, "_MARGIN", 0)
    page, blocks = 2 * 1024**2, 2000
    pages, parts, taken = _pool(blocks)
    for part in parts:
        part[9].fill_(1.0)
    before = taken()
    for _ in range(3):
        pages.reach(9)
    assert before < taken() <= before + 4 * page
    for _ in range(100):
        pages.reach(9)
    # Where pages are small, only one of each large one's place is.
    assert before + 16 * 4096 <= taken() <= before + 17 * page, "as much as is kept ahead"
    assert not pages.filled
    for part in parts:
        part[blocks - 1].fill_(1.0)
    pages.reach(blocks - 1)
    assert pages.filled
    assert all(part[block].eq(1.0).all() for part in parts for block in (9, blocks - 1))


def test_pages_are_taken_ahead_while_nothing_runs(monkeypatch: pytest.MonkeyPatch):
    """As many as are wanted before the first step, again when half of them are used, and nothing that was written is changed."""
    ahead, blocks = 64 * 1024**2, 2000
    monkeypatch.setattr(pages_ahead, "_FIRST", 0)
    monkeypatch.setattr(pages_ahead, "_MARGIN", ahead)
    pages, parts, taken = _pool(blocks)
    size = parts[0].stride(0) * 4

    def fill(highest: int) -> int:
        pages.reach(highest)
        thread = pages._thread
        assert thread is not None
        thread.join(60)
        assert not thread.is_alive()
        return taken()

    page = 2 * 1024**2
    assert ahead - page <= fill(-1) <= ahead + 2 * page
    for part in parts:
        part[:300].fill_(1.0)
        # Written before its page is taken, which only a step of later on would do.
        part[blocks - 1].fill_(2.0)
    there = fill(299)
    assert 300 * size + ahead - page <= there <= 300 * size + ahead + 4 * page
    assert fill(300) < there + page, "half of them are not used yet"
    for part in parts:
        part[300:901].fill_(1.0)
    assert fill(900) >= 901 * size + ahead - page
    assert all(part[:901].eq(1.0).all() and part[901 : blocks - 1].eq(0.0).all() and part[blocks - 1].eq(2.0).all() for part in parts)


def test_some_pages_are_there_before_the_first_step(monkeypatch: pytest.MonkeyPatch):
    ahead, page = 64 * 1024**2, 2 * 1024**2
    monkeypatch.setattr(pages_ahead, "_FIRST", ahead)
    monkeypatch.setattr(pages_ahead, "_MARGIN", 0)
    pages, _, taken = _pool(2000)
    pages.reach(-1)
    assert ahead - page <= taken() <= ahead + 2 * page
    assert pages._thread is None


def test_a_system_that_is_too_old_leaves_it_to_the_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages_ahead, "_FIRST", 0)
    pages, _, taken = _pool(2000)
    # Nothing that madvise knows.
    monkeypatch.setattr(pages_ahead, "_MADV_POPULATE_WRITE", 12345)
    for _ in range(2):
        pages.reach(-1)
        thread = pages._thread
        assert thread is not None
        thread.join(60)
    assert pages._thread is thread, "not asked again"
    before = taken()
    pages.reach(0)
    assert taken() > before


def test_a_pool_that_is_gone_takes_nothing(monkeypatch: pytest.MonkeyPatch):
    """Whoever let it go has its memory back, whatever the thread was about to take."""
    monkeypatch.setattr(pages_ahead, "_FIRST", 0)
    # As if steps ran all the time: the thread waits for its turn.
    monkeypatch.setattr(pages_ahead, "_QUIET", 3600)
    memory = KVCache([LayerShape(4, 64, 64)] * 4, 2000, 16, torch.float32, torch.device("cpu"))
    pages, address = memory.pages, memory.layers[0].keys.data_ptr()
    assert pages is not None
    pages.reach(0)
    thread = pages._thread
    assert thread is not None
    assert thread.is_alive()
    assert _resident(address, 2**20) > 0
    del memory
    assert _resident(address, 2**20) == 0
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("pages", [1, 100, 2000])
def test_a_process_may_end_while_pages_are_taken(pages: int):
    """The thread of a pool of 16 GiB, killed with the interpreter wherever it is."""
    script = f"""
import torch
from jitney_runtime.torch_backend import pages_ahead
from jitney_runtime.torch_backend.kv_cache import KVCache, LayerShape
pages_ahead._FIRST, pages_ahead._MARGIN = {pages} * 4096, 2**34
memory = KVCache([LayerShape(4, 64, 64)] * 4, 2**17, 16, torch.float32, torch.device("cpu"))
memory.pages.reach(-1)
assert memory.pages._thread.is_alive()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _pool(blocks: int) -> tuple[PagesAhead, list[torch.Tensor], Callable[[], int]]:
    """Of memory of which a block is 128 KiB: its pages, its tensors, and how many bytes of it are there."""
    memory = KVCache([LayerShape(4, 64, 64)] * 4, blocks, 16, torch.float32, torch.device("cpu"))
    assert memory.pages is not None
    _kept.append(memory)
    parts = [part for layer in memory.layers for part in (layer.keys, layer.values)]
    return memory.pages, parts, lambda: _resident(parts[0].data_ptr(), blocks * parts[0].stride(0) * 4)


def _resident(address: int, size: int) -> int:
    """Bytes of the pages of this range that have memory, and of no neighbour; 0 where nothing is mapped any more."""
    first = address // PAGE * PAGE
    there = ctypes.create_string_buffer(-(-(address + size - first) // PAGE))
    if _libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(address + size - first), there):
        assert ctypes.get_errno() == errno.ENOMEM
        return 0
    return sum(byte & 1 for byte in there.raw) * PAGE
