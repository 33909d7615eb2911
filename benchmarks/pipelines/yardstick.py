"""The limit of the pipelines: cores / (preprocess time + model time per item), measured among their rounds.

With fewer workers than cores it may be less: n workers preprocess at most n / preprocess time items per second.
Both times are CPU seconds of one thread in a process of its own, while the pipelines stand idle: preprocessing as the
workers do it, the model through one traced function at the race's batch size with TensorFlow held to one thread. With
its usual threads TensorFlow spends up to a fifth more CPU on the same batch (spinning, hand-over), which would make
the limit lower and easier to reach. The process stays for the whole run and answers once per round, because the
speed of a shared machine moves.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from measuring.helper_process import follow_the_parent
from pipelines.interface import Workload

MODEL_CALLS = 5


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one thread per item."""

    preprocess_seconds: float
    model_seconds: float

    def limit_items_per_second(self, core_count: int, worker_count: int) -> float:
        """Items per second if every core, and every worker, did nothing but preprocess and run the model."""
        of_cores = core_count / (self.preprocess_seconds + self.model_seconds)
        return min(of_cores, worker_count / self.preprocess_seconds)


@dataclass(frozen=True)
class _Question:
    workload: Workload
    sample_count: int


class Yardstick:
    """A process that measures what one item costs. A context manager.

    Parameters
    ----------
    prepare : callable
        Run in that process at once, while the caller does other things: imports what the models need.
    """

    def __init__(self, prepare: Callable[[], object]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, prepare), daemon=True)
        self._process.start()
        far_end.close()

    def measure(self, workload: Workload, sample_count: int) -> Cost:
        """Measure over the first `sample_count` items, at least one batch of them."""
        self._connection.send(_Question(workload, max(sample_count, workload.batch_size)))
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Cost)
        return answer

    def __enter__(self) -> Yardstick:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection[Any, Any], prepare: Callable[[], object]) -> None:
    follow_the_parent()
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    prepare()
    models: dict[str, Callable[[Any], Any]] = {}
    while True:
        try:
            question = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            connection.send(_measure(question, models))
        except Exception as error:
            connection.send(RuntimeError(f"measuring the limit failed: {error!r}"))


def _measure(question: _Question, models: dict[str, Callable[[Any], Any]]) -> Cost:
    workload = question.workload
    items = [workload.items[index % len(workload.items)] for index in range(question.sample_count)]
    samples = np.stack([workload.preprocess(item) for item in items[: workload.batch_size]])
    before = time.process_time()
    for item in items:
        workload.preprocess(item)
    preprocess_seconds = (time.process_time() - before) / len(items)
    if workload.name not in models:
        models[workload.name] = _traced(workload)
    import tensorflow as tf

    batch = tf.constant(samples)  # outside the timing: handing over a batch is the pipeline's business
    models[workload.name](batch)
    calls = []
    for _ in range(MODEL_CALLS):
        before = time.process_time()
        models[workload.name](batch).numpy()
        calls.append((time.process_time() - before) / len(samples))
    return Cost(preprocess_seconds, statistics.median(calls))


def _traced(workload: Workload) -> Callable[[Any], Any]:
    model = workload.build_model()
    import tensorflow as tf  # after the model's own import, which may silence TensorFlow's log

    signature = [tf.TensorSpec((None, *workload.sample_shape), workload.sample_dtype)]
    function = tf.function(lambda batch: model(batch, training=False), signature, autograph=False)
    concrete: Callable[[Any], Any] = function.get_concrete_function()
    return concrete
