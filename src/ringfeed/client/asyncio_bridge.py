"""Awaiting an `AnswerFuture`, which threads complete, in a coroutine.

It may not know requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .pending_answer import FIRST_CHECK_SECONDS, GRACE_SECONDS, MAX_CHECK_SECONDS, AnswerFuture


async def await_answer(future: AnswerFuture) -> Any:
    """Await a future that no user has.

    Only the caller keeps its result, which may be a view. `asyncio.wrap_future` would keep a reference.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def notify(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(notify)
    watchdog = _Watchdog(loop, future, wake)
    try:
        await waiter
    except asyncio.CancelledError:
        future.cancel()
        raise
    finally:
        watchdog.end()
    return future.take_result()


class _Watchdog:
    """Checks a future from time to time, because a callback may block the collector's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, future: AnswerFuture, wake: Callable[[], None]) -> None:
        self._loop, self._future, self._wake = loop, future, wake
        self._pause = FIRST_CHECK_SECONDS
        self._timer = loop.call_later(self._seconds(), self._check)

    def _seconds(self) -> float:
        left = self._future.seconds_left
        return self._pause if left is None else min(self._pause, left)

    def _check(self) -> None:
        if not self._future.done():
            self._future.check()
        if not self._future.done() and self._future.seconds_left == GRACE_SECONDS:
            self._future.expire()
        if self._future.done():
            self._wake()
            return
        self._pause = min(2 * self._pause, MAX_CHECK_SECONDS)
        self._timer = self._loop.call_later(self._seconds(), self._check)

    def end(self) -> None:
        self._timer.cancel()
