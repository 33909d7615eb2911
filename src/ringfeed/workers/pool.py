"""The worker processes of a predictor: started, probed, watched, replaced and ended.

It may not know models, batches or TensorFlow. Workers are fresh interpreters, never forks: this process may have
threads, TensorFlow and a GPU. They do not run the main module again: the function travels by cloudpickle. main.py is
the program of a worker.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arguments import check_seconds
from ..errors import RingFeedError
from ..machine import memory_files
from ..machine.cpu_limits import available_cores as available_cores
from ..ring import Ring
from . import by_value
from . import start as worker_start
from .commands import OpenRings, Probe, Setup
from .failures import Failure, message_of
from .identity import WorkerInfo
from .item_errors import closed_during_call, preprocess_error, shorten, unsendable_error
from .item_timeout import ItemWatchdog, timeout_failure
from .items import EncodedItem
from .main import MAX_DELIVERIES
from .messages import ProbeResult
from .samples import Sample
from .tags import PROBE_TAG
from .user_functions import fills_slot, takes_info
from .worker_process import WorkerProcess, end_all

logger = logging.getLogger("ringfeed")

_SLICE_SECONDS = 0.05
_MAX_FAILED_STARTS = 3
_MAX_WORKERS = 4000
"""This many workers, and some others, have places in a ring with `ring_options.MAX_PARTICIPANTS` participants."""
_MAX_KILLED_STARTS = 12
"""A worker that is killed from outside during its start may have been unlucky; one that dies by itself will do so
again."""

_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _close_channels() -> None:
    """Close a forked child's ends of the channels, so that workers end with the process of their predictor."""
    for pool in list(_pools):
        for worker in pool._workers:
            worker.channel.close()


os.register_at_fork(after_in_child=_close_channels)


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
        replacement of a worker runs it again.
    item_timeout : float, optional
        Most seconds for one item, including the time to read it. If an item takes longer, or its worker is stopped for
        longer, the worker is ended and replaced, and the item fails. Imports of a worker and its initializer are not
        limited.

    Attributes
    ----------
    fills_slot : bool
        The function takes ``(item, out)``.
    last_death : str
        Why the last worker died; empty if none did.

    Raises
    ------
    TypeError, ValueError
        An argument is invalid, or the function cannot be pickled.
    RingFeedError
        There is no Python interpreter to start: the program is frozen, or embeds Python.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        count: int,
        *,
        initializer: Callable[..., Any] | None = None,
        item_timeout: float | None = None,
    ) -> None:
        if count > _MAX_WORKERS:
            raise ValueError(
                f"{count} worker processes do not fit into one ring: give workers= of at most {_MAX_WORKERS}."
            )
        self.fills_slot = fills_slot(function)
        self.last_death = ""
        self._count = count
        self._item_timeout = _checked_timeout(item_timeout)
        self._program = worker_start.executable()
        self._open: tuple[OpenRings, list[tuple[int, ...]]] | None = None
        self._failed_starts = 0
        self._killed_starts = 0
        self._probes = 0
        self._is_closed = False
        self._changing = threading.RLock()  # a signal handler may close the pool while its thread starts a worker
        self._workers: list[WorkerProcess] = []
        _pools.add(self)
        self._watchdog: ItemWatchdog | None = None
        self._code = memory_files.OwnDescriptor(
            memory_files.create_with("ringfeed-function", _pickled(function, initializer))
        )
        try:
            if self._item_timeout is not None:
                self._watchdog = ItemWatchdog(self._item_timeout, count)
            for number in range(count):
                self._workers.append(self._start(number))
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> WorkerProcess:
        info = WorkerInfo(number, self._count, int.from_bytes(os.urandom(8), "little"))
        page = () if self._watchdog is None else (self._watchdog.descriptor,)
        setup = Setup(self.fills_slot, info, self._item_timeout)
        return WorkerProcess(self._program, setup, (self._code.number, *page))

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def process_ids(self) -> list[int]:
        """The process ids of the workers; a closed pool has none."""
        return [] if self._is_closed else [worker.process.pid for worker in self._workers]

    # ---- probes --------------------------------------------------------------------------------------

    def probe(self, index: int, item: Any) -> Sample:
        """Let a worker preprocess an item, and return the structure of its sample.

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
        while crashes < MAX_DELIVERIES:
            self._require_open()
            worker = self._workers[0]
            self._probes += 1
            worker.send(Probe(self._probes), (descriptor,))
            result = self._wait_for_result(worker, self._probes)
            if result is not None:
                return result
            crashes += worker.is_ready
            self.replace_dead()
        return Failure("crashed", "")

    def _wait_for_result(self, worker: WorkerProcess, number: int) -> Sample | Failure | None:
        """Wait for the result of a probe; None if the worker died over it."""
        while True:
            is_dead = worker.process.poll() is not None
            while (message := worker.receive(0.0 if is_dead else _SLICE_SECONDS)) is not None:
                # The result of an earlier probe, which a Ctrl-C ended, is ignored.
                if isinstance(message, ProbeResult) and message.number == number:
                    return message.result
            if is_dead:
                return None
            self._require_open()
            for killed, tag in self.kill_overdue():
                if killed is worker and tag == PROBE_TAG and self._item_timeout is not None:
                    worker.process.wait()
                    self.replace_dead()
                    return timeout_failure(self._item_timeout)
            worker.warn_if_slow()

    # ---- rings ---------------------------------------------------------------------------------------

    def open(
        self, command: OpenRings, tasks: Sequence[Ring], rows: Ring, failures: Ring, spill_descriptor: int
    ) -> None:
        """Let the workers work on these rings; worker k takes from ``tasks[k % len(tasks)]``.

        Raises
        ------
        RingClosed
            The pool was closed.
        """
        self._require_open()
        self._open = (
            command,
            [(ring.descriptor, rows.descriptor, failures.descriptor, spill_descriptor) for ring in tasks],
        )
        for number, worker in enumerate(self._workers):
            self._send_open(number, worker)
        self._require_open()

    def _send_open(self, number: int, worker: WorkerProcess) -> None:
        if self._open is not None:
            command, descriptors = self._open
            worker.send(command, descriptors[number % len(descriptors)])

    # ---- deaths --------------------------------------------------------------------------------------

    def kill_overdue(self) -> list[tuple[WorkerProcess, int | None]]:
        """Kill the workers whose item takes longer than `item_timeout`; `replace_dead` replaces them.

        Call it often: most calls only read a clock.

        Returns
        -------
        list of (worker, tag)
            The workers that were killed; the tag is None for a worker that was stopped while it had no item.
        """
        if self._watchdog is None:
            return []
        killed = []
        for number, tag in self._watchdog.find_overdue(self.process_ids):
            worker = self._workers[number]
            worker.kill("ended: item_timeout")
            killed.append((worker, tag))
        return killed

    def replace_dead(self) -> int:
        """Replace dead workers, and kill overdue workers first; see `kill_overdue`. Returns the number of deaths.

        Raises
        ------
        RingFeedError
            Workers die repeatedly before they are ready, the function could not be loaded in one, or the initializer
            raised.
        RingClosed
            The pool was closed: its workers are dead, and are not replaced.
        """
        died = 0
        self._require_open()
        self.kill_overdue()
        for number, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is None:
                if not worker.is_ready:
                    worker.receive(0.0)
                    worker.warn_if_slow()
                continue
            self._require_open()
            died += 1
            while worker.receive(0.0) is not None:
                pass  # its last messages may say why it ended
            self.last_death = worker.cause_of_death(code)
            self._count_start(worker, code)
            logger.warning("worker process %d died (%s); starting another", worker.process.pid, self.last_death)
            worker.end()
            if self._failed_starts >= _MAX_FAILED_STARTS or self._killed_starts >= _MAX_KILLED_STARTS:
                raise RingFeedError(
                    f"worker processes die before they are ready (last: {self.last_death}). "
                    "Check the imports of the preprocess function."
                )
            self._replace(number)
        return died

    def _replace(self, number: int) -> None:
        """Start another worker in place of a dead one."""
        with self._changing:
            self._require_open()
            if self._watchdog is not None:
                self._watchdog.restarted(number)
            worker = self._workers[number] = self._start(number)
            if self._is_closed:  # by a signal handler during the start, which could not see this worker
                end_all([worker])
                self._require_open()
        self._send_open(number, worker)

    def _count_start(self, dead: WorkerProcess, code: int) -> None:
        """Count the deaths of workers that were never ready, since the last time that a worker became ready."""
        a_start_succeeded = dead.is_ready
        for worker in self._workers:
            if not worker.is_ready and worker is not dead:
                worker.receive(0.0)  # notes that it is ready, if it said so meanwhile
            a_start_succeeded |= worker.is_ready and not worker.is_start_counted
            worker.is_start_counted = worker.is_ready
        if a_start_succeeded:
            self._failed_starts = self._killed_starts = 0
        elif code == -signal.SIGKILL:
            self._killed_starts += 1
        else:
            self._failed_starts += 1

    # ---- the end -------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._is_closed:
            raise closed_during_call()

    def close(self) -> None:
        """End every worker, if necessary by SIGKILL; a second call has no effect.

        A call under way in another thread, or in the frame that a signal handler interrupted, raises `RingClosed`.
        """
        with self._changing:  # not while another thread starts a worker
            self._is_closed = True
            workers = list(self._workers)
        end_all(workers)
        if self._watchdog is not None:
            self._watchdog.close()
        self._code.close()


def _checked_timeout(item_timeout: Any) -> float | None:
    if item_timeout is None:
        return None
    return check_seconds(item_timeout, "item_timeout", above_zero=True, finite=True, or_none=", or None for no limit")


def _pickled(function: Callable[..., Any], initializer: Callable[..., Any] | None) -> bytes:
    """Return both in one pickle, so that they share the globals of the main module."""
    if initializer is not None:
        takes_info(initializer)
    for what, part in (("initializer", initializer), ("preprocess", (function, initializer))):
        try:
            code = by_value.dumps(part)
        except Exception as error:
            raise TypeError(
                f"{what} {shorten(function if what == 'preprocess' else initializer)} cannot be sent to a worker "
                f"process: {message_of(error)}"
            ) from error
    return code
