"""A server's process: it starts beside others, reports when it serves, and ends on command or with its parent.

Knows no server: the new process enters a context manager, which yields the address.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any

from measuring.helper_process import follow_the_parent

START_SECONDS = 90.0
END_SECONDS = 10.0
SPAWN = multiprocessing.get_context("spawn")


class ServerProcess:
    """Runs ``with serve(*arguments) as address`` in a separate process."""

    def __init__(self, serve: Callable[..., AbstractContextManager[Any]], *arguments: Any) -> None:
        self._control, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_run, args=(theirs, serve, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._serves = False

    def address(self) -> Any:
        """Wait until the process serves and return the address of `serve`. Called once."""
        if not self._control.poll(START_SECONDS):
            raise RuntimeError(f"a server did not start within {START_SECONDS:.0f} s")
        try:
            succeeded, answer = self._control.recv()
        except EOFError:
            raise RuntimeError("a server's process ended before it served") from None
        if not succeeded:
            raise RuntimeError(f"a server did not start:\n{answer}")
        self._serves = True
        return answer

    def close(self) -> None:
        self._control.close()  # a serving process waits for this
        if self._serves:
            self._process.join(END_SECONDS)
        end(self._process)


def end(process: Any) -> None:
    """End a process, which may already have ended, and release it."""
    if process.is_alive():
        process.terminate()
        process.join(END_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def or_end_the_process(function: Callable[..., None]) -> Callable[..., None]:
    """Make an error in a server's thread end the process; otherwise its clients would wait forever."""

    @functools.wraps(function)
    def run(*arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    return run


def _run(control: Connection, serve: Callable[..., AbstractContextManager[Any]], arguments: tuple[Any, ...]) -> None:
    follow_the_parent()
    try:
        with serve(*arguments) as address:
            control.send((True, address))
            control.poll(None)  # waits until the other end is closed
    except BaseException:
        control.send((False, traceback.format_exc()))
    finally:
        os._exit(0)  # `serve` has cleaned up; a normal exit would spend another second on TensorFlow's modules
