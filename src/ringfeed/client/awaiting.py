"""Futures of threads, awaited by coroutines.

It may not know what a future is the answer to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .pending import FIRST_LOOK_SECONDS, GRACE_SECONDS, LONGEST_LOOK_SECONDS, AnswerFuture


async def result_of(future: AnswerFuture) -> Any:
    """Await a future that nobody else has.

    Nothing but the caller keeps its result, which may be a view; `asyncio.wrap_future` would.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def tell(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(tell)
    watch = _Watch(loop, future, wake)
    try:
        await waiter
    except asyncio.CancelledError:
        future.cancel()
        raise
    finally:
        watch.end()
    return future.result_for_good()


class _Watch:
    """Looks after a future now and then, should the thread that collects answers be kept by a callback."""

    def __init__(self, loop: asyncio.AbstractEventLoop, future: AnswerFuture, wake: Callable[[], None]) -> None:
        self._loop, self._future, self._wake = loop, future, wake
        self._pause = FIRST_LOOK_SECONDS
        self._timer = loop.call_later(self._seconds(), self._look)

    def _seconds(self) -> float:
        left = self._future.seconds_left
        return self._pause if left is None else min(self._pause, left)

    def _look(self) -> None:
        if not self._future.done():
            self._future.look()
        if not self._future.done() and self._future.seconds_left == GRACE_SECONDS:
            self._future.end_late()
        if self._future.done():
            self._wake()
            return
        self._pause = min(2 * self._pause, LONGEST_LOOK_SECONDS)
        self._timer = self._loop.call_later(self._seconds(), self._look)

    def end(self) -> None:
        self._timer.cancel()
