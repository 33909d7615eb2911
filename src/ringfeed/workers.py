"""The worker processes of a predictor: started, asked, watched, replaced and ended.

It may not know models, batches or TensorFlow. Workers are fresh interpreters (never forked: this
process may have threads, TensorFlow and a GPU), and do not run the main module again: the function
travels by cloudpickle. What a worker does stands in worker_main.py.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.spawn
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np

from .channel import Channel, ChannelClosed
from .errors import PreprocessError, RingFeedError, WorkerCrashed
from .items import EncodedItem
from .ring import Ring
from .worker_main import MOST_DELIVERIES, Failure, Open, Probe, Ready, Sample, Setup, fills_slot

logger = logging.getLogger("ringfeed")

_ENDING_SECONDS = 0.3
_SLICE_SECONDS = 0.05
_STARTS_IN_VAIN = 3
_KILLED_STARTS_IN_VAIN = 12
"""Who is killed from outside while it starts may have been unlucky; who dies by itself will do so again."""

# One process per core: their libraries must not start a thread per core each. And no GPU: it is the model's.
# Every item allocates what the last one freed: glibc keeps it for the next, instead of giving it to the kernel and
# fetching zeroed pages anew (photographs of 1 to 2 megapixels: 234 page faults each, 0.5 of 7 ms, become none).
_ENVIRONMENT_DEFAULTS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
_ENVIRONMENT_FIXED = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "ROCR_VISIBLE_DEVICES": "-1"}


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


class _Process:
    """One worker process and our end of its channel."""

    def __init__(self, setup: Setup) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        bootstrap = (
            f"import sys; sys.path[:] = {sys.path!r}; from ringfeed.worker_main import main; main({theirs.fileno()})"
        )
        executable = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
        with theirs:
            self.process = subprocess.Popen(
                [executable, "-c", bootstrap],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**_ENVIRONMENT_DEFAULTS, **os.environ, **_ENVIRONMENT_FIXED},
            )
        self.channel = Channel(ours)
        self.ready = False
        self.start_counted = False
        self.send(setup)

    def send(self, order: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Send an order; that the worker is dead is noticed elsewhere."""
        with contextlib.suppress(ChannelClosed):
            self.channel.send(order, descriptors)

    def receive(self, timeout: float) -> Any:
        """Return the next answer, or None; note readiness on the way and raise what loading raised."""
        try:
            answer, _ = self.channel.receive(timeout)
        except (TimeoutError, BlockingIOError, ChannelClosed):
            return None
        if isinstance(answer, Ready):
            self.ready = True
            return None
        if isinstance(answer, Failure) and answer.while_loading:
            raise RingFeedError(
                "the preprocess function could not be loaded in a worker process. What it needs must be importable "
                f"there:\n{answer.text}"
            )
        return answer

    def end(self) -> None:
        self.channel.close()  # the worker ends when it notices


def _why_it_died(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"


class WorkerPool:
    """Processes that run one function.

    Parameters
    ----------
    function : callable
        ``function(item)`` returning arrays, or ``function(item, out)`` filling the slot.
    count : int
        Number of processes, at least 1.
    """

    def __init__(self, function: Callable[..., Any], count: int) -> None:
        self.fills_slot = fills_slot(function)
        self.last_death = ""
        try:
            self._setup = Setup(cloudpickle.dumps(function, protocol=5), self.fills_slot)
        except Exception as error:
            raise TypeError(f"preprocess {function!r} can not be sent to a worker process: {error}") from error
        self._open: tuple[Open, list[tuple[int, ...]]] | None = None
        self._starts_in_vain = 0
        self._killed_starts_in_vain = 0
        self._processes: list[_Process] = []
        try:
            for _ in range(count):
                self._processes.append(_Process(self._setup))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def process_ids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in self._processes]

    def probe(self, index: int, item: Any) -> Sample:
        """Let a worker preprocess an item and say what comes out.

        Raises
        ------
        PreprocessError
            The function raised.
        WorkerCrashed
            Two workers died over it.
        RingFeedError
            The function could not be loaded in a worker.
        """
        encoded = EncodedItem(item)
        message = np.zeros(encoded.message_bytes, np.uint8)
        encoded.write(message)
        crashes = 0
        while crashes < MOST_DELIVERIES:
            worker = self._processes[0]
            worker.send(Probe(message.tobytes()))
            while True:
                answer = worker.receive(_SLICE_SECONDS)
                if isinstance(answer, Sample):
                    return answer
                if isinstance(answer, Failure):
                    raise preprocess_error(answer, index, item, self.last_death)
                if worker.process.poll() is not None and not (answer or worker.receive(0.0)):
                    break
            crashes += worker.ready
            self.mend()
        raise preprocess_error(Failure("crashed", ""), index, item, self.last_death)

    def open(self, template: Any, tasks: Sequence[Ring], rows: Ring, failures: Ring, spill_descriptor: int) -> None:
        """Let the workers work on these rings; worker k takes from ``tasks[k % len(tasks)]``."""
        self._open = (
            Open(template),
            [(ring.descriptor, rows.descriptor, failures.descriptor, spill_descriptor) for ring in tasks],
        )
        for number, worker in enumerate(self._processes):
            self._send_open(number, worker)

    def _send_open(self, number: int, worker: _Process) -> None:
        if self._open is not None:
            order, descriptors = self._open
            worker.send(order, descriptors[number % len(descriptors)])

    def mend(self) -> int:
        """Replace workers that died. Returns how many.

        Raises
        ------
        RingFeedError
            Workers die again and again before they have done anything, or the function could not be
            loaded in one.
        """
        died = 0
        for number, worker in enumerate(self._processes):
            code = worker.process.poll()
            if code is None:
                continue
            died += 1
            while not worker.ready and worker.receive(0.001) is not None:
                pass
            self.last_death = _why_it_died(code)
            self._count_start(worker, code)
            logger.warning("worker process %d died (%s); starting another", worker.process.pid, self.last_death)
            worker.end()
            if self._starts_in_vain >= _STARTS_IN_VAIN or self._killed_starts_in_vain >= _KILLED_STARTS_IN_VAIN:
                raise RingFeedError(
                    f"worker processes die before they are ready (last: {self.last_death}). "
                    "Look at what the preprocess function imports."
                )
            self._processes[number] = _Process(self._setup)
            self._send_open(number, self._processes[number])
        return died

    def _count_start(self, dead: _Process, code: int) -> None:
        """Count the deaths of workers that were never ready, since the last time that one became so."""
        a_start_worked = dead.ready
        for worker in self._processes:
            if not worker.ready and worker is not dead:
                worker.receive(0.0)  # notes that it is ready, if it said so meanwhile
            a_start_worked |= worker.ready and not worker.start_counted
            worker.start_counted = worker.ready
        if a_start_worked:
            self._starts_in_vain = self._killed_starts_in_vain = 0
        elif code == -signal.SIGKILL:
            self._killed_starts_in_vain += 1
        else:
            self._starts_in_vain += 1

    def close(self) -> None:
        """End every worker, at the latest by SIGKILL; twice does no harm."""
        workers, self._processes = self._processes, []
        for worker in workers:
            worker.end()
        for worker in workers:
            try:
                worker.process.wait(_ENDING_SECONDS / max(len(workers), 1))
            except subprocess.TimeoutExpired:
                worker.process.kill()
        for worker in workers:
            worker.process.wait()


def preprocess_error(failure: Failure, index: int, item: Any, last_death: str) -> PreprocessError | WorkerCrashed:
    """Return the error of an item, naming it."""
    named = f"item {index} ({shorten(item)})"
    if failure.kind == "crashed":
        reason = f" (last: {last_death})" if last_death else ""
        return WorkerCrashed(f"{named}: the worker process died over it, and so did the next{reason}.", index, item)
    return PreprocessError(f"{named}: preprocess raised\n{failure.text.rstrip()}", index, item)


def shorten(item: Any, most: int = 80) -> str:
    """Return a short text for an item of any size."""
    if isinstance(item, np.ndarray):
        return f"array of shape {item.shape}, {item.dtype.name}"
    if isinstance(item, (bytes, bytearray)) and len(item) > most:
        return f"{len(item)} bytes"
    text = repr(item)
    return text if len(text) <= most else text[: most - 3] + "..."
