"""Helpers of all tests: records, functions in real processes, threads, and waits for a condition.

A test waits for an event, never for a time: for a message of a child process, or for a condition.
If the event never comes, pytest-timeout ends the test and prints the stack of every thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

import ringfeed

SHARED_MEMORY = Path("/dev/shm")

DTYPES = [
    *["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"],
    *["float16", "float32", "float64", "complex64", "bfloat16"],
]


def wait_until(is_so: Callable[[], Any]) -> Any:
    """Call `is_so()` repeatedly until its result is true; return the result."""
    while not (found := is_so()):
        time.sleep(0.001)
    return found


# ---- Records -----------------------------------------------------------------------------------------


def record(number: int) -> dict[str, np.ndarray]:
    """Return a record for the rings of the fixtures: a page whose every element is the number."""
    return {"x": np.full(512, number, np.int64)}


def numbers(batch: ringfeed.Batch) -> list[int]:
    """Return the numbers of a batch's records; fail if one is torn."""
    rows = batch["x"]
    assert (rows == rows[:, :1]).all(), "a torn record"
    return rows[:, 0].tolist()


def take_all(ring: ringfeed.Ring) -> list[int]:
    """Take all ready records, in as many batches as necessary; release them and return their numbers."""
    found = []
    while True:
        try:
            with ring.take(ring.slots, timeout=0) as batch:
                found += numbers(batch)
        except (ringfeed.RingEmpty, ringfeed.RingFinished):
            return found


def states(ring: ringfeed.Ring) -> dict[str, int]:
    """Return how many slots are in each state, without the empty states."""
    stats = ring.stats()
    return {state: stats[state] for state in ("free", "claimed", "ready", "taken", "kept") if stats[state]}


# ---- Processes ---------------------------------------------------------------------------------------


class ChildFailed(AssertionError):
    """The child's function raised, or the child died unexpectedly."""


class Pipe:
    """The child's end of the connection; the first argument of the child's function."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, message: Any) -> None:
        """Send a message; the test receives it with `Child.told`."""
        self._connection.send(("told", message))

    def hear(self) -> Any:
        """Wait for a message of `Child.tell`."""
        return self._connection.recv()

    def is_told(self) -> bool:
        """Tell whether a message of the test is waiting."""
        return self._connection.poll()


_by_value = threading.Lock()  # protects cloudpickle's registry, which is global


def pickled_by_value(function: Callable[..., Any], *arguments: Any) -> bytes:
    """Return a pickled function and its arguments for a process that cannot import the test's module.

    The pickle contains every global of the module that the function uses.
    """
    module = sys.modules[function.__module__]
    with _by_value:
        cloudpickle.register_pickle_by_value(module)
        try:
            return cloudpickle.dumps((function, arguments))
        finally:
            cloudpickle.unregister_pickle_by_value(module)


class Child:
    """A function that runs in a fresh process, and the test's end of the connection.

    The process is a new interpreter. It inherits no memory, lock or descriptor, and `multiprocessing` is not involved.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, pass_fds: tuple[int, ...] = ()) -> None:
        ours, theirs = socket.socketpair()
        bootstrap = f"import sys; sys.path[:] = {sys.path!r}; import support; support._run_child({theirs.fileno()})"
        with theirs:
            self.process = subprocess.Popen([sys.executable, "-c", bootstrap], pass_fds=[theirs.fileno(), *pass_fds])
        self._connection = Connection(ours.detach())
        self._connection.send_bytes(pickled_by_value(function, *arguments))

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, message: Any = None) -> None:
        """Send a message; the function receives it with `Pipe.hear`."""
        self._connection.send(message)

    def _receive(self) -> tuple[str, Any]:
        try:
            kind, message = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise ChildFailed(f"the child ended with status {self.process.wait()}") from None
        if kind == "raised":
            raise ChildFailed(message)
        return kind, message

    def told(self) -> Any:
        """Wait for the next message of the function."""
        kind, message = self._receive()
        assert kind == "told", f"the child's function returned {message!r}; a message was expected"
        return message

    def result(self) -> Any:
        """Wait until the function has returned and the process has ended; return the function's result."""
        kind, message = self._receive()
        assert kind == "returned", f"the child sent {message!r}; its function's return was expected"
        assert self.process.wait() == 0
        return message

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill by SIGKILL and wait until the process is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop by SIGSTOP and wait until every thread of the process is stopped."""
        self.signal(signal.SIGSTOP)
        wait_until(lambda: process_state(self.pid) == "T")

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill the process if it still runs, and close the connection."""
        if self.process.poll() is None:
            self.kill()
        self._connection.close()


def _run_child(descriptor: int) -> None:
    connection = Connection(descriptor)
    # A background process of a shell, as in CI, ignores Ctrl-C, and its child processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function, arguments = cloudpickle.loads(connection.recv_bytes())
    try:
        outcome = "returned", function(Pipe(connection), *arguments)
    except BaseException:
        outcome = "raised", traceback.format_exc()
    connection.send(outcome)


def run_program(source: str, **environment: str) -> tuple[int, str, str]:
    """Run a program in a new interpreter to its end; return its status, its output and its errors."""
    source = "import os, sys\nimport numpy as np\nimport ringfeed\n" + textwrap.dedent(source)
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


def process_state(pid: int) -> str:
    """Return the kernel's letter for the state of a process: R running, S sleeping, T stopped, Z zombie."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not yet collected its status."""
    try:
        return process_state(pid) in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_waited(ring: ringfeed.Ring, what: str) -> None:
    """Wait until another thread or process has waited on the ring for a while, in ``"take"`` or ``"claim"``.

    The ring counts a wait at the end of each of its time slices; the waiter then continues.
    """
    before = ring.stats()[f"{what}_wait_ns"]
    wait_until(lambda: ring.stats()[f"{what}_wait_ns"] > before)


@contextlib.contextmanager
def in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Future[Any]]:
    """Run a function in a new thread; the end of the block waits for the thread.

    If the block raises, it does not wait, because the event that the thread waits for may never come.
    """
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield future
    thread.join()


# ---- Segments ----------------------------------------------------------------------------------------


def segments() -> list[str]:
    """Return the names of all rings that have a segment, of every owner."""
    return [path.name.removeprefix("ringfeed.") for path in SHARED_MEMORY.glob("ringfeed.*")]


def segment_path(name: str) -> Path:
    return SHARED_MEMORY / f"ringfeed.{name}"
