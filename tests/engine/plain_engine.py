"""An engine without a model, for tests of clients: a thread that follows the same protocol as `Engine`."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np

import ringfeed
from ringfeed.client.reply_pool import PoolSettings, ReplyPool


class PlainEngine:
    """Answers each record with its first number, once it is opened.

    Attributes
    ----------
    gate : threading.Event
        The engine takes records only while this is set.
    """

    def __init__(self, ring: ringfeed.Ring, settings: PoolSettings | None = None, cells: int | None = None) -> None:
        self.ring = ring
        self.gate = threading.Event()
        self.batch_rows: list[int] = []
        self._settings = settings or PoolSettings(single_output=True)
        self.pool = ReplyPool.make(ring, {"y": ((), "int64")}, cells or 2 * ring.slots, 64, self._settings)
        self.pool.serve(ring)
        self._ending = False
        self._serving = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def open(self) -> PlainEngine:
        self.gate.set()
        return self

    def close_gate(self) -> None:
        """Take no more records from now on."""
        self.gate.clear()
        with self._serving:
            pass

    def _serve(self) -> None:
        with contextlib.suppress(ringfeed.RingClosed, ringfeed.RingFinished):
            while not self._ending:
                self.gate.wait(0.01)
                with self._serving:
                    if self.gate.is_set():
                        self._serve_batch()

    def _serve_batch(self) -> None:
        with contextlib.suppress(ringfeed.RingEmpty):
            for requests in self.pool.hold(self.ring.take_urgent(self.ring.slots, timeout=0.01)):
                self.batch_rows.append(requests.rows)
                requests.answer([np.ascontiguousarray(requests.batch["x"][:, 0])], 0, requests.rows)
                requests.batch.release()

    def __enter__(self) -> PlainEngine:
        return self

    def __exit__(self, *_: Any) -> None:
        self._ending = True
        self._thread.join()
        self.pool.serve(None)
        self.pool.close()


def answer_threads() -> list[threading.Thread]:
    """Return the threads that collect the answers of clients."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("ringfeed-answers-")]
