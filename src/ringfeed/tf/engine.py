"""The engine: takes batches of requests from a ring, runs the model, answers.

It may not know how a request was made, nor how a batch is run (replica.py) or chosen (batching.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from .. import _core
from ..batching import Batching, BatchPolicy
from ..errors import RingClosed, RingEmpty, RingFeedError, RingFinished
from ..replies import PoolSettings, ReplyPool
from ..ring import Ring
from .fused import default_structure, refuse_mixed_rows
from .model_forms import ModelForm, model_form
from .replica import Replica
from .structure import lists_to_tuples

DEFAULT_BATCH_SIZE = 32
_log = logging.getLogger("ringfeed.engine")


class Engine:
    """Serves a model: takes requests from a ring as batches, and answers them.

    It runs in any process, in the background (`start`, or as a context manager) or in the foreground (`run`). Several
    engines on one ring share the work. Records that were put without a client are run, too, and want no answer.

    Parameters
    ----------
    ring : Ring
        Owned or attached. It must have its name still: clients find the engine by it.
    model : keras.Model, path, SavedModel folder, tf.function or callable
        As for `ringfeed.tf.model.ModelRunner`. It gets whole batches and returns one row for each row.
    batch_size : int
        Most rows in a batch; also called `max_batch_size`.
    linger : float
        Seconds that the first record of a batch waits for others; also called `batch_timeout`.
    """

    def __init__(
        self,
        ring: Ring,
        model: Any,
        batch_size: int | None = None,
        linger: float | None = None,
        *,
        max_batch_size: int | None = None,
        batch_timeout: float | None = None,
        allowed_batch_sizes: Sequence[int] | None = None,
        preferred_batch_sizes: Sequence[int] | None = None,
        policy: BatchPolicy | None = None,
        max_queue_size: int | None = None,
        when_full: str = "block",
        structure: Any = None,
        reply_cells: int | None = None,
        participants: int = 512,
        allow_row_mixing: bool = False,
        jit_compile: bool = False,
    ) -> None:
        self.ring = ring
        self._form = model_form(model)
        self.name = self._form.name
        size = batch_size or max_batch_size or DEFAULT_BATCH_SIZE
        wait = linger if linger is not None else 0.002 if batch_timeout is None else batch_timeout
        self.policy = policy or Batching(min(size, ring.slots), wait, allowed_batch_sizes, preferred_batch_sizes)
        self._pool_options = (reply_cells or 2 * ring.slots, participants)
        self._settings = {"max_queue_size": max_queue_size or 0, "rejects": when_full == "reject"}
        structure = default_structure(ring.spec, self._form) if structure is None else lists_to_tuples(structure)
        self.meter = _core.Meter()
        self._replicas = [
            Replica(
                self._form,
                ring.spec,
                structure,
                self.policy.padded_size,
                self.policy.max_batch_size,
                self.meter,
                jit_compile=jit_compile,
                ring_name=ring.name,
            )
        ]
        self._pool: ReplyPool | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._draining = False

    def start(self) -> Engine:
        outputs = self._replicas[0].warm_up(1)
        settings = PoolSettings(outputs.bare, **self._settings)
        self._pool = ReplyPool.make(self.ring, outputs.fields, *self._pool_options, settings)
        self._pool.serve(True)
        for replica in self._replicas:
            thread = threading.Thread(target=self._serve, args=(replica,), name=f"ringfeed-engine-{self.ring.name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def _serve(self, replica: Replica) -> None:
        while not self._stopping:
            try:
                batch = self.policy.take(self.ring, replica.ceiling.rows, lambda: self._stopping)
            except RingEmpty:
                continue
            except (RingFinished, RingClosed):
                break
            for requests in self._pool.hold(batch):
                replica.serve(requests)

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        if self._pool is not None:
            self._pool.serve(False)
            self._pool.close()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, kind, error, traceback) -> None:
        self.stop()
