"""One worker process, as its pool sees it: the process, its channel, and what is known of both.

It may not know items, rings or other workers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from ..errors import RingFeedError
from . import by_value
from . import start as worker_start
from .channel import Channel, ChannelClosed
from .commands import Setup
from .messages import MAX_BYTES, LoadingFailed, Ready, WorkerMessage, decode_message
from .plain_data import NotPlain

logger = logging.getLogger("ringfeed")

_END_SECONDS = 0.3
_SLICE_SECONDS = 0.05
_FIRST_PAUSE_SECONDS = 0.0005
_SLOW_START_SECONDS = 60.0

_WHAT_FAILED = {
    "function": "preprocess could not be loaded in a worker process: its imports must be available there",
    "initializer": "the initializer raised in a worker process",
    "command": "a worker process could not read a command",
    "rings": "a worker process could not open the rings",
}


class WorkerProcess:
    """A worker process and the pool's end of its channel.

    Parameters
    ----------
    program : str
        The Python interpreter.
    setup : Setup
    descriptors : tuple of int
        They go with the setup.

    Attributes
    ----------
    process : subprocess.Popen
    channel : Channel
    is_ready : bool
        The worker has loaded its function.
    is_start_counted : bool
        The pool has counted its successful start.
    kill_reason : str
        Why the pool killed it; empty if it did not.
    """

    def __init__(self, program: str, setup: Setup, descriptors: tuple[int, ...]) -> None:
        ours, theirs = worker_start.connected_sockets()
        self.channel = Channel(ours, by_value.dumps, decode_message, MAX_BYTES)
        try:
            with theirs:
                self.process = worker_start.start(program, theirs.fileno())
        except BaseException:
            self.channel.close()
            raise
        self.is_ready = False
        self.is_start_counted = False
        self.kill_reason = ""
        self._slow_after = time.monotonic() + _SLOW_START_SECONDS
        self.send(setup, descriptors)

    def send(self, command: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Send a command. The death of the worker is noticed elsewhere."""
        with contextlib.suppress(ChannelClosed):
            self.channel.send(command, descriptors)

    def receive(self, timeout: float) -> WorkerMessage | None:
        """Return the next message, or None. Readiness is noted here, and a failed loading is raised.

        Raises
        ------
        RingFeedError
            The worker could not load its function, run its initializer, read a command or open the rings.
        """
        message: WorkerMessage
        try:
            message, descriptors = self.channel.receive(timeout)
        except (TimeoutError, ChannelClosed):
            return None
        except NotPlain as error:
            self.kill(f"ended: it sent an invalid message ({error})")
            self.end()  # its further messages are not read: it may have been taken over
            return None
        for descriptor in descriptors:  # no message needs one
            os.close(descriptor)
        if isinstance(message, Ready):
            self.is_ready = True
            return None
        if isinstance(message, LoadingFailed):
            raise RingFeedError(f"{_WHAT_FAILED[message.what]}:\n{message.text}")
        return message

    def warn_if_slow(self) -> None:
        """Warn once of a worker that is not ready after a minute."""
        if not self.is_ready and time.monotonic() > self._slow_after:
            self._slow_after = math.inf
            logger.warning(
                "worker process %d is not ready after %g s: it still imports modules for preprocess, or runs the "
                "initializer. item_timeout does not limit that.",
                self.process.pid,
                _SLOW_START_SECONDS,
            )

    def kill(self, reason: str) -> None:
        """Kill the worker; the pool replaces it."""
        self.kill_reason = reason
        self.process.kill()

    def end(self) -> None:
        """Close the channel; the worker ends when it notices."""
        self.channel.close()

    def cause_of_death(self, exit_code: int) -> str:
        """Return why the worker ended, in words."""
        return self.kill_reason or _describe_exit(exit_code)


def end_all(workers: Sequence[WorkerProcess]) -> None:
    """End workers, by SIGKILL if they do not end in time, and wait for their end."""
    for worker in workers:
        worker.end()
    for worker in workers:
        if not _wait_for_end(worker.process, _END_SECONDS / len(workers)):
            worker.process.kill()
    for worker in workers:
        _wait_for_end(worker.process)
        worker.process.poll()  # asks for its status, unless an interrupted frame is about to do so


def _wait_for_end(process: subprocess.Popen[bytes], timeout: float = math.inf) -> bool:
    """Wait for the end of a process; tell whether it came in time.

    `Popen.wait` is not used: a signal handler that ends workers would wait there for a lock that is held by the frame
    which it interrupted.
    """
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE_SECONDS
    while process.returncode is None:
        try:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:  # other code has asked for its status
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _SLICE_SECONDS)
    return True


def _describe_exit(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
