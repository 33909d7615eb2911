"""The limit of the pipelines: cores / (preprocess time + model time per item), measured between their rounds.

With fewer workers than cores the limit may be lower: n workers preprocess at most n / preprocess time items per second,
and at most n of them run at once. Both times are CPU seconds, measured while the pipelines are idle and every core is
busy: one process preprocesses and calls the model, and a companion process on each other core preprocesses meanwhile.
Cores share memory and caches, so the same work takes longer when all of them work. Preprocessing runs as in the
workers, with the same malloc options.

The model is one traced function at the comparison's batch size, called in two ways: with TensorFlow's usual threads, as
every pipeline calls it, and with one thread. One thread takes less CPU for the same batch, because nothing spins or is
handed over; a process reaches that limit only without the threads. The processes live through the whole run and measure
once per round, because the speed of a shared machine varies.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from measuring.helper_process import follow_the_parent
from measuring.machine import core_count
from pipelines.interface import Workload

MODEL_CALLS = 5
SPAWN = multiprocessing.get_context("spawn")
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
# What ringfeed/workers.py sets, which says why.
AS_IN_WORKERS = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}


@dataclass(frozen=True)
class Limits:
    """Items per second, with TensorFlow's usual threads and with one thread."""

    usual_threads: float
    one_thread: float


@dataclass(frozen=True)
class Cost:
    """CPU seconds per item.

    Attributes
    ----------
    preprocess_seconds, preprocess_seconds_of_workers : float
        With all cores busy, and with as many busy cores as there are workers.
    model_seconds, model_seconds_one_thread : float
        With TensorFlow's usual threads, and with one thread.
    """

    preprocess_seconds: float
    preprocess_seconds_of_workers: float
    model_seconds: float
    model_seconds_one_thread: float

    def limits(self, core_count: int, worker_count: int) -> Limits:
        """Return the limits: every core and every worker only preprocesses and runs the model."""

        def limit(model_seconds: float) -> float:
            of_cores = core_count / (self.preprocess_seconds + model_seconds)
            return min(of_cores, worker_count / self.preprocess_seconds_of_workers)

        return Limits(limit(self.model_seconds), limit(self.model_seconds_one_thread))


@dataclass(frozen=True)
class _Question:
    workload: Workload
    sample_count: int


@dataclass(frozen=True)
class _Preprocessed:
    items: int
    seconds: float


class CostMeter:
    """Processes that measure the cost of an item. A context manager.

    Parameters
    ----------
    prepare : callable
        Imports the modules of the models. The processes with models call it at once, while the caller continues.
    """

    def __init__(self, prepare: Callable[[], object]) -> None:
        with _environment(AS_IN_WORKERS), ExitStack() as stack:
            self._one_thread = stack.enter_context(_Helper(_answer, prepare, ONE_THREAD))
            self._usual_threads = stack.enter_context(_Helper(_answer, prepare, {}))
            self._companions = [stack.enter_context(_Helper(_keep_a_core_busy)) for _ in range(core_count() - 1)]
            self._stack = stack.pop_all()

    def measure(self, workload: Workload, sample_count: int) -> Cost:
        """Measure the costs; preprocessing over `sample_count` items and those of the companion processes."""
        everywhere, one_thread, usual_threads = self._measure(workload, sample_count, self._companions)
        of_workers = everywhere
        if workload.worker_count <= len(self._companions):
            companions = self._companions[: workload.worker_count - 1]
            of_workers, _, _ = self._measure(workload, sample_count, companions)
        return Cost(everywhere, of_workers, usual_threads, one_thread)

    def _measure(
        self, workload: Workload, sample_count: int, companions: Sequence[_Helper]
    ) -> tuple[float, float, float]:
        """Return the cost of an item's preprocessing, and of the model with one thread and with the usual threads."""
        answers: list[Any] = []
        try:
            for companion in companions:
                companion.send(workload)
            own, one_thread = self._one_thread.ask(_Question(workload, sample_count))
            _, usual_threads = self._usual_threads.ask(_Question(workload, 0))
        finally:  # also after an error the companions stop, and no answer remains for the next call
            for companion in companions:
                with suppress(RuntimeError):
                    companion.send(None)
            for companion in companions:
                try:
                    answers.append(companion.receive())
                except RuntimeError as error:
                    answers.append(error)
        if failed := [answer for answer in answers if isinstance(answer, Exception)]:
            raise failed[0]
        every = [own, *answers]
        return sum(one.seconds for one in every) / sum(one.items for one in every), one_thread, usual_threads

    def __enter__(self) -> CostMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def _environment(names: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that start in the block."""
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Helper:
    """A helper process and its connection."""

    def __init__(self, run: Callable[..., None], *arguments: object) -> None:
        self._connection, far_end = SPAWN.Pipe()
        self._process = SPAWN.Process(target=run, args=(far_end, *arguments), daemon=True)
        self._process.start()
        far_end.close()

    def ask(self, question: object) -> Any:
        self.send(question)
        return self.receive()

    def send(self, question: object) -> None:
        try:
            self._connection.send(question)
        except OSError:
            raise self._gone() from None

    def receive(self) -> Any:
        """Return the answer; RuntimeError if the answer is one, or if the process has ended."""
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _gone(self) -> RuntimeError:
        self._process.join(1)
        return RuntimeError(f"a process that measures the limit ended with exit code {self._process.exitcode}")

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()


# ---- In the processes ----------------------------------------------------------------------------


def _answer(connection: Connection[Any, Any], prepare: Callable[[], object], environment: dict[str, str]) -> None:
    """Answer measurement requests until the parent closes the connection."""
    follow_the_parent()
    os.environ.update(environment)
    prepare()
    models: dict[str, Callable[[], Any]] = {}
    while True:
        try:
            question = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            connection.send(_measure(question, models))
        except Exception as error:
            connection.send(RuntimeError(f"measuring the limit failed: {error!r}"))


def _keep_a_core_busy(connection: Connection[Any, Any]) -> None:
    """Preprocess a workload's items repeatedly until told to stop; send their number and CPU time."""
    follow_the_parent()
    while True:
        try:
            workload = connection.recv()
            items, seconds = 0, 0.0
            if workload is None:  # the stop came before the start
                connection.send(_Preprocessed(items, seconds))
                continue
            try:
                while not connection.poll():
                    part = _first_items(workload, workload.batch_size, start=items)
                    seconds += _preprocess(workload, part)
                    items += len(part)
                answer: object = _Preprocessed(items, seconds)
            except Exception as error:
                answer = RuntimeError(f"measuring the limit failed: {error!r}")
            while connection.recv() is not None:
                pass
            connection.send(answer)
        except EOFError:  # the parent is gone
            return


def _first_items(workload: Workload, count: int, start: int = 0) -> list[str]:
    return [workload.items[(start + index) % len(workload.items)] for index in range(count)]


def _preprocess(workload: Workload, items: Sequence[str]) -> float:
    """Return the CPU seconds of preprocessing the items."""
    before = time.process_time()
    for item in items:
        workload.preprocess(item)
    return time.process_time() - before


def _measure(question: _Question, models: dict[str, Callable[[], Any]]) -> tuple[_Preprocessed, float]:
    """Return the cost of preprocessing, and the model's CPU seconds per item."""
    workload = question.workload
    if workload.name not in models:
        models[workload.name] = _ready_call(workload)
    items = _first_items(workload, question.sample_count)
    preprocessed = _Preprocessed(len(items), _preprocess(workload, items))
    call = models[workload.name]
    call()
    seconds = []
    for _ in range(MODEL_CALLS):
        before = time.process_time()
        call()
        seconds.append((time.process_time() - before) / workload.batch_size)
    return preprocessed, statistics.median(seconds)


def _ready_call(workload: Workload) -> Callable[[], Any]:
    """Return a call of the model with an existing batch, because the hand-over belongs to the pipeline."""
    model = workload.build_model()
    import tensorflow as tf  # import after the model's own module, which may silence TensorFlow's log

    signature = [tf.TensorSpec((None, *workload.sample_shape), workload.sample_dtype)]
    function = tf.function(lambda batch: model(batch, training=False), signature, autograph=False)
    concrete = function.get_concrete_function()
    samples = [workload.preprocess(item) for item in _first_items(workload, workload.batch_size)]
    batch = tf.constant(np.stack(samples))
    return lambda: concrete(batch).numpy()
