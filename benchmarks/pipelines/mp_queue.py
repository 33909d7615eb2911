"""The usual hand-written pipeline: worker processes, an input queue, an output queue, batches in the model process.

It is a careful version. The workers are spawned (a fork after TensorFlow's import hangs) and import no TensorFlow. The
result queue is bounded, so that fast workers do not fill the memory. Results are put into order, the model is called
through one traced function, and the workers end with their parent.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Sequence
from multiprocessing.queues import Queue
from typing import Any

import numpy as np

from measuring.helper_process import follow_the_parent
from pipelines.interface import Job, Preprocess

BATCHES_AHEAD = 2
LIVENESS_CHECK_SECONDS = 1.0


class MultiprocessingQueue:
    """Spawned workers between two `multiprocessing.Queue`s."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._batch_size = job.batch_size
        self._tasks: Queue[Any] = context.Queue()
        self._results: Queue[Any] = context.Queue(maxsize=BATCHES_AHEAD * job.batch_size)
        self._workers = [
            context.Process(target=_work, args=(job.preprocess, self._tasks, self._results), daemon=True)
            for _ in range(job.worker_count)
        ]
        for worker in self._workers:
            worker.start()
        self._call_model = traced(job)

    def predict(self, items: Sequence[str]) -> np.ndarray:
        for task in enumerate(items):
            self._tasks.put(task)
        order: list[int] = []
        outputs: list[np.ndarray] = []
        while len(order) < len(items):
            rows = min(self._batch_size, len(items) - len(order))
            indices, samples = zip(*(self._next_result() for _ in range(rows)), strict=True)
            outputs.append(self._call_model(np.stack(samples)))
            order.extend(indices)
        in_order = np.concatenate(outputs)
        in_order[order] = in_order.copy()
        return in_order

    def _next_result(self) -> tuple[int, np.ndarray]:
        while True:
            try:
                index, sample = self._results.get(timeout=LIVENESS_CHECK_SECONDS)
            except queue.Empty:
                if not all(worker.is_alive() for worker in self._workers):
                    raise RuntimeError("a worker of the multiprocessing.Queue pipeline died") from None
                continue
            if isinstance(sample, Exception):
                raise sample
            return index, sample

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()
        for channel in (self._tasks, self._results):
            channel.cancel_join_thread()
            channel.close()


def traced(job: Job) -> Any:
    """Return a function from an array to an array that calls the model through one concrete function."""
    import tensorflow as tf  # not at the top: the workers import this module

    signature = [tf.TensorSpec((None, *job.sample_shape), job.sample_dtype)]
    function = tf.function(lambda batch: job.model(batch, training=False), signature, autograph=False)
    concrete = function.get_concrete_function()
    return lambda batch: concrete(tf.convert_to_tensor(batch)).numpy()


def _work(preprocess: Preprocess, tasks: Queue[Any], results: Queue[Any]) -> None:
    follow_the_parent()
    while True:
        index, item = tasks.get()
        try:
            results.put((index, preprocess(item)))
        except Exception as error:
            results.put((index, RuntimeError(f"{item}: {error!r}")))
