"""The worker processes of a predictor: started, asked, watched, replaced and ended.

It may not know models, batches or TensorFlow. Workers are fresh interpreters (never forked: this
process may have threads, TensorFlow and a GPU), and do not run the main module again: the function
travels by cloudpickle. What a worker does stands in worker_main.py.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arguments import check_seconds
from ..errors import PreprocessError, RingClosed, RingFeedError, SampleMismatch, WorkerCrashed
from ..machine import memory_files
from ..machine.cpu_limits import available_cores as available_cores
from ..ring import Ring
from . import by_value
from . import start as worker_start
from .answers import MOST_BYTES, Answer, LoadingFailed, ProbeAnswer, Ready, unpacked
from .channel import Channel, ChannelClosed
from .failures import Failure, message_of, rebuilt, type_name
from .identity import WorkerInfo
from .item_timeout import ItemWatch, timeout_failure
from .items import EncodedItem
from .main import MOST_DELIVERIES
from .orders import PROBE_TAG, Open, Probe, Setup, fills_slot, takes_info
from .plain_data import NotPlain
from .samples import Sample

logger = logging.getLogger("ringfeed")

_ENDING_SECONDS = 0.3
_SLICE_SECONDS = 0.05
_FIRST_PAUSE_SECONDS = 0.0005
_SLOW_START_SECONDS = 60.0
_STARTS_IN_VAIN = 3
_MOST_WORKERS = 4000
"""So many have places in the rings, whose participants are `ring_options.MAX_PARTICIPANTS`, beside some for others."""
_KILLED_STARTS_IN_VAIN = 12
"""Who is killed from outside while it starts may have been unlucky; who dies by itself will do so again."""

_WHAT_FAILED = {
    "function": "preprocess could not be loaded in a worker process: what it needs must be importable there",
    "initializer": "the initializer raised in a worker process",
    "order": "a worker process could not read what it was sent",
    "rings": "a worker process could not open the rings",
}


class _Process:
    """One worker process and our end of its channel."""

    def __init__(self, program: str, setup: Setup, descriptors: tuple[int, ...]) -> None:
        ours, theirs = worker_start.connected_sockets()
        self.channel = Channel(ours, by_value.dumps, unpacked, MOST_BYTES)
        try:
            with theirs:
                self.process = worker_start.start(program, theirs.fileno())
        except BaseException:
            self.channel.close()
            raise
        self.ready = False
        self.start_counted = False
        self.given_up = ""  # why the pool killed it
        self.slow_after = time.monotonic() + _SLOW_START_SECONDS
        self.send(setup, descriptors)

    def send(self, order: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Send an order; that the worker is dead is noticed elsewhere."""
        with contextlib.suppress(ChannelClosed):
            self.channel.send(order, descriptors)

    def receive(self, timeout: float) -> Answer | None:
        """Return the next answer, or None; note readiness on the way and raise what loading raised."""
        answer: Answer
        try:
            answer, descriptors = self.channel.receive(timeout)
        except (TimeoutError, ChannelClosed):
            return None
        except NotPlain as error:
            self.give_up(f"ended: what it sent is no answer ({error})")
            self.end()  # what it said behind that is not read: it may have been taken over
            return None
        for descriptor in descriptors:  # nobody asked for one
            os.close(descriptor)
        if isinstance(answer, Ready):
            self.ready = True
            return None
        if isinstance(answer, LoadingFailed):
            raise RingFeedError(f"{_WHAT_FAILED[answer.what]}:\n{answer.text}")
        return answer

    def warn_if_slow(self) -> None:
        """Say once that a worker is not ready after a minute."""
        if not self.ready and time.monotonic() > self.slow_after:
            self.slow_after = math.inf
            logger.warning(
                "worker process %d is not ready after %g s: it still imports what preprocess needs, or runs the "
                "initializer. item_timeout does not limit that.",
                self.process.pid,
                _SLOW_START_SECONDS,
            )

    def give_up(self, why: str) -> None:
        """Kill a worker, for the pool to replace it."""
        self.given_up = why
        self.process.kill()

    def end(self) -> None:
        self.channel.close()  # the worker ends when it notices


def _has_ended(process: subprocess.Popen[bytes], timeout: float = math.inf) -> bool:
    """Wait for the end of a process; tell whether it came in time.

    Not by ``Popen.wait``: a signal handler that ends workers would wait there for a lock that the frame which it
    interrupted has.
    """
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE_SECONDS
    while process.returncode is None:
        try:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:  # somebody else has asked for its status
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _SLICE_SECONDS)
    return True


def _why_it_died(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _forget_workers() -> None:
    """Close a forked child's ends of the channels, so that workers end with their predictor's own process."""
    for pool in list(_pools):
        for worker in pool._processes:
            worker.channel.close()


os.register_at_fork(after_in_child=_forget_workers)


class WorkerPool:
    """Processes that run one function.

    Parameters
    ----------
    function : callable
        ``function(item)`` returning arrays, or ``function(item, out)`` filling the slot.
    count : int
        Number of processes, at least 1.
    initializer : callable, optional
        Called once in each process before its first item, without an argument or, if it needs one, with the
        `WorkerInfo`. It travels together with the function, so that they share the globals of the main module. The
        process that replaces a worker runs it again.
    item_timeout : float, optional
        Most seconds for one item, reading it included. The worker whose item takes longer, or that is stopped for
        longer, is ended and replaced; the item fails. What a worker imports and its initializer are not limited.

    Raises
    ------
    TypeError, ValueError
        An argument that makes no sense, or a function that cannot travel.
    RingFeedError
        There is no Python interpreter to start: a program that is frozen, or that embeds Python.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        count: int,
        *,
        initializer: Callable[..., Any] | None = None,
        item_timeout: float | None = None,
    ) -> None:
        if count > _MOST_WORKERS:
            raise ValueError(
                f"{count} worker processes have no place in one ring: give workers= of at most {_MOST_WORKERS}."
            )
        self.fills_slot = fills_slot(function)
        self.last_death = ""
        self._count = count
        self._item_timeout = (
            None
            if item_timeout is None
            else check_seconds(
                item_timeout, "item_timeout", above_zero=True, finite=True, or_none=", or None for no limit"
            )
        )
        self._program = worker_start.executable()
        self._open: tuple[Open, list[tuple[int, ...]]] | None = None
        self._starts_in_vain = 0
        self._killed_starts_in_vain = 0
        self._probes = 0
        self._is_closed = False
        self._changing = threading.RLock()  # a signal handler may close the pool while its thread starts a worker
        self._processes: list[_Process] = []
        _pools.add(self)
        self._watch: ItemWatch | None = None
        self._code = memory_files.OwnDescriptor(
            memory_files.create_with("ringfeed-function", _pickled(function, initializer))
        )
        try:
            if self._item_timeout is not None:
                self._watch = ItemWatch(self._item_timeout, count)
            for number in range(count):
                self._processes.append(self._start(number))
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> _Process:
        info = WorkerInfo(number, self._count, int.from_bytes(os.urandom(8), "little"))
        board = () if self._watch is None else (self._watch.descriptor,)
        setup = Setup(self.fills_slot, info, self._item_timeout)
        return _Process(self._program, setup, (self._code.number, *board))

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def process_ids(self) -> list[int]:
        """The workers' process ids; of a pool that was closed, none."""
        return [] if self._is_closed else [worker.process.pid for worker in self._processes]

    def probe(self, index: int, item: Any) -> Sample:
        """Let a worker preprocess an item and say what comes out.

        Raises
        ------
        PreprocessError
            The function raised, the item took longer than `item_timeout`, or it cannot be sent to a worker.
        WorkerCrashed
            Two workers died over it.
        RingFeedError
            The function could not be loaded in a worker, or the initializer raised.
        RingClosed
            The pool was closed.
        """
        try:
            encoded = EncodedItem(item)
        except (Exception, SystemExit) as error:
            raise unsendable_error(error, index, item) from error
        message = np.zeros(encoded.message_bytes, np.uint8)
        encoded.write(message)
        descriptor = memory_files.create_with("ringfeed-item", message)
        try:
            result = self._probe(descriptor)
        finally:
            os.close(descriptor)
        if isinstance(result, Failure):
            raise preprocess_error(result, index, item, self.last_death)
        return result

    def _probe(self, descriptor: int) -> Sample | Failure:
        crashes = 0
        while crashes < MOST_DELIVERIES:
            self._require_open()
            worker = self._processes[0]
            self._probes += 1
            worker.send(Probe(self._probes), (descriptor,))
            answer = self._answer(worker, self._probes)
            if answer is not None:
                return answer
            crashes += worker.ready
            self.mend()
        return Failure("crashed", "")

    def _answer(self, worker: _Process, number: int) -> Sample | Failure | None:
        """Wait for the answer to a probe; None when the worker died over it."""
        while True:
            is_dead = worker.process.poll() is not None
            while (answer := worker.receive(0.0 if is_dead else _SLICE_SECONDS)) is not None:
                # One to a probe before, which a Ctrl-C ended, is passed over.
                if isinstance(answer, ProbeAnswer) and answer.number == number:
                    return answer.result
            if is_dead:
                return None
            self._require_open()
            for given_up, tag in self.watch():
                if given_up is worker and tag == PROBE_TAG and self._item_timeout is not None:
                    worker.process.wait()
                    self.mend()
                    return timeout_failure(self._item_timeout)
            worker.warn_if_slow()

    def open(self, order: Open, tasks: Sequence[Ring], rows: Ring, failures: Ring, spill_descriptor: int) -> None:
        """Let the workers work on these rings; worker k takes from ``tasks[k % len(tasks)]``.

        Raises
        ------
        RingClosed
            The pool was closed.
        """
        self._require_open()
        self._open = (
            order,
            [(ring.descriptor, rows.descriptor, failures.descriptor, spill_descriptor) for ring in tasks],
        )
        for number, worker in enumerate(self._processes):
            self._send_open(number, worker)
        self._require_open()

    def _send_open(self, number: int, worker: _Process) -> None:
        if self._open is not None:
            order, descriptors = self._open
            worker.send(order, descriptors[number % len(descriptors)])

    def watch(self) -> list[tuple[_Process, int | None]]:
        """End the workers whose item takes longer than `item_timeout`; `mend` replaces them.

        Call it often: most calls only read a clock.

        Returns
        -------
        list of (worker, tag)
            Whom it ended now; the tag is None for one that was stopped while it was at no item.
        """
        if self._watch is None:
            return []
        ended = []
        for number, tag in self._watch.hanging(self.process_ids):
            worker = self._processes[number]
            worker.give_up("ended: item_timeout")
            ended.append((worker, tag))
        return ended

    def mend(self) -> int:
        """Replace workers that died, and end those that hang; see `watch`. Returns how many died.

        Raises
        ------
        RingFeedError
            Workers die again and again before they have done anything, the function could not be
            loaded in one, or the initializer raised.
        RingClosed
            The pool was closed: its workers are dead, and stay so.
        """
        died = 0
        self._require_open()
        self.watch()
        for number, worker in enumerate(self._processes):
            code = worker.process.poll()
            if code is None:
                if not worker.ready:
                    worker.receive(0.0)
                    worker.warn_if_slow()
                continue
            self._require_open()
            died += 1
            while worker.receive(0.0) is not None:
                pass  # what it said at last may be why it ended
            self.last_death = worker.given_up or _why_it_died(code)
            self._count_start(worker, code)
            logger.warning("worker process %d died (%s); starting another", worker.process.pid, self.last_death)
            worker.end()
            if self._starts_in_vain >= _STARTS_IN_VAIN or self._killed_starts_in_vain >= _KILLED_STARTS_IN_VAIN:
                raise RingFeedError(
                    f"worker processes die before they are ready (last: {self.last_death}). "
                    "Look at what the preprocess function imports."
                )
            self._replace(number)
        return died

    def _replace(self, number: int) -> None:
        """Start another worker in the place of a dead one."""
        with self._changing:
            self._require_open()
            if self._watch is not None:
                self._watch.restarted(number)
            worker = self._processes[number] = self._start(number)
            if self._is_closed:  # by a signal handler within the start, which could not see this worker
                self._end([worker])
                self._require_open()
        self._send_open(number, worker)

    def _require_open(self) -> None:
        if self._is_closed:
            raise closed_during_call()

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
        """End every worker, at the latest by SIGKILL; twice does no harm.

        What is under way in another thread, or in the frame that a signal handler interrupted, raises `RingClosed`.
        """
        with self._changing:  # not while another thread starts a worker
            self._is_closed = True
            workers = list(self._processes)
        self._end(workers)
        if self._watch is not None:
            self._watch.close()
        self._code.close()

    @staticmethod
    def _end(workers: Sequence[_Process]) -> None:
        for worker in workers:
            worker.end()
        for worker in workers:
            if not _has_ended(worker.process, _ENDING_SECONDS / len(workers)):
                worker.process.kill()
        for worker in workers:
            _has_ended(worker.process)
            worker.process.poll()  # asks for its status, unless the frame that was interrupted is about to


def closed_during_call() -> RingClosed:
    """Return the error of a call whose predictor was closed by another thread, a callback or a signal handler."""
    return RingClosed("this Predictor was closed during the call, which has no result; make a new one.")


def _pickled(function: Callable[..., Any], initializer: Callable[..., Any] | None) -> bytes:
    """Return both in one pickle: what they share of the main module stays shared."""
    if initializer is not None:
        takes_info(initializer)
    for what, part in (("initializer", initializer), ("preprocess", (function, initializer))):
        try:
            code = by_value.dumps(part)
        except Exception as error:
            raise TypeError(
                f"{what} {shorten(function if what == 'preprocess' else initializer)} can not be sent to a worker "
                f"process: {message_of(error)}"
            ) from error
    return code


def preprocess_error(failure: Failure, index: int, item: Any, last_death: str) -> PreprocessError | WorkerCrashed:
    """Return the error of an item, naming it; its cause is the exception that was raised, if it is known here."""
    named = f"item {index} ({shorten(item)})"
    if failure.kind == "crashed":
        reason = f" (last: {last_death})" if last_death else ""
        return WorkerCrashed(f"{named}: the worker process died over it, and so did the next{reason}.", index, item)
    if failure.kind == "unfit":
        return SampleMismatch(f"{named}: {failure.text}", index, item)
    text = failure.text if failure.kind == "timeout" else f"preprocess raised\n{failure.text.rstrip()}"
    error = PreprocessError(f"{named}: {text}", index, item, failure.exception_type)
    error.__cause__ = rebuilt(failure)
    return error


def unsendable_error(reason: BaseException, index: int, item: Any) -> PreprocessError:
    """Return the error of an item that cannot be sent to a worker; `reason` is what pickling raised."""
    text = f"item {index} ({shorten(item)}) can not be sent to a worker process: {message_of(reason)}"
    error = PreprocessError(text, index, item, type_name(type(reason)))
    error.__cause__ = reason
    return error


def shorten(item: Any, most: int = 80) -> str:
    """Return a short text for an item of any size, also for one whose own text cannot be had."""
    try:
        if isinstance(item, np.ndarray):
            return f"array of shape {item.shape}, {item.dtype.name}"
        if isinstance(item, (bytes, bytearray)) and len(item) > most:
            return f"{len(item)} bytes"
        text = repr(item[: most + 1] if type(item) is str else item)
    except Exception as error:
        return f"a {type_name(type(item))}, whose repr raises {type_name(type(error))}"
    return text if len(text) <= most else text[: most - 3] + "..."
