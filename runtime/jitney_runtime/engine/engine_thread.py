"""An engine on a thread of its own, which takes orders from any thread and tells of its steps."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from jitney_runtime.engine.engine import Engine, StepReport
from jitney_runtime.engine.link import Add, Limits, News, Order
from jitney_runtime.engine.sequence import Sequence

logger = logging.getLogger(__name__)


class EngineThread:
    """`tell` is called on the engine's thread after each step, and `dead` when there will be no other."""

    def __init__(self, engine: Engine, tell: Callable[[News], None], dead: Callable[[], None]) -> None:
        self._engine = engine
        self._tell = tell
        self._dead = dead
        self._orders: list[Order] = []
        # When each came that has not begun; engine thread only.
        self._unstarted: dict[str, float] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    @property
    def limits(self) -> Limits:
        scheduler = self._engine.scheduler
        return Limits(scheduler.max_model_len, scheduler.max_num_seqs, self._engine.runner.vocabulary)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def order(self, order: Order) -> None:
        """Carried out before the next step, in the order in which they came."""
        with self._wake:
            self._orders.append(order)
            self._wake.notify()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=5)

    # Engine thread only, from here on.

    def _loop(self) -> None:
        try:
            while self._take_orders():
                self._tell(self._news(self._engine.step()))
                self._check_when_idle()
        # Code that comes with a model may ask for the end in its own way.
        except BaseException:
            logger.exception("the engine's loop is dead")
            self._dead()

    def _check_when_idle(self) -> None:
        """Nobody waits for it then."""
        if not self._engine.has_work and not self._orders:
            self._engine.check_integrity()

    def _take_orders(self) -> bool:
        """Wait for work and carry the orders out; False when asked to stop."""
        with self._wake:
            while not (self._orders or self._engine.has_work or self._stopping):
                self._wake.wait()
            orders, self._orders = self._orders, []
        for order in orders:
            self._carry_out(order)
        return not self._stopping

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Add):
            self._unstarted[order.sequence_id] = order.came
            self._engine.add(Sequence(order.sequence_id, order.prompt, order.params, seed=order.seed))
        else:
            self._engine.abort(order.sequence_id)
            self._unstarted.pop(order.sequence_id, None)

    def _news(self, report: StepReport) -> News:
        began = time.perf_counter() - report.seconds
        # A preempted sequence begins again; only its first beginning ends its time in the queue.
        queued = [max(0.0, began - self._unstarted.pop(begun)) for begun in report.begun if begun in self._unstarted]
        return News(report.outputs, report.rows, report.tokens, report.seconds, queued, self._engine.stats())


class InProcess:
    """The link to an engine of this process, for tests of what lies around it."""

    def __init__(self, engine: Engine) -> None:
        self._thread = EngineThread(engine, self._tell, self._dead)

    @property
    def limits(self) -> Limits:
        return self._thread.limits

    @property
    def alive(self) -> bool:
        return self._thread.alive

    def start(self, tell: Callable[[News], None], dead: Callable[[], None]) -> None:
        self._loop, self._told, self._died = asyncio.get_running_loop(), tell, dead
        self._thread.start()

    def send(self, order: Order) -> None:
        self._thread.order(order)

    def stop(self) -> None:
        self._thread.stop()

    def _tell(self, news: News) -> None:
        self._loop.call_soon_threadsafe(self._told, news)

    def _dead(self) -> None:
        self._loop.call_soon_threadsafe(self._died)
