"""How a process ends whose engine does not: stopping within a time limit, and at the end of the interpreter.

It may not know how an engine serves, nor its states.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import EngineHung
from ..terminations import STATUS
from .replica import Replica

INTERRUPT_SECONDS = 5.0
"""Seconds that the batch under way may take after Ctrl-C."""

_EXIT_SECONDS = 2.0
_log = logging.getLogger("ringfeed.engine")
_exit_causes: list[tuple[weakref.ref[Any], BaseException]] = []


def hung_error(ring_name: str, model_name: str, replicas: Sequence[Replica], seconds: float) -> EngineHung:
    """Return the error of an engine that did not stop within `seconds`; it names the model calls under way."""
    now = time.monotonic()
    calls = [
        f"{each.device} runs it over {call[0]} row{'s' if call[0] > 1 else ''} since {now - call[1]:.1f} s"
        for each in replicas
        if (call := each.call_under_way) is not None
    ]
    return EngineHung(
        f"engine of model {model_name!r} on ring {ring_name!r}: not stopped after {seconds:g} s. "
        f"{'; '.join(calls) or 'A thread is between two calls of the model'}. The engine takes no more requests, and "
        "clients are told so. The requests that it holds are delivered again when this process ends. End the process, "
        "or call stop() again with more time."
    )


def stop_within(engine: Any, seconds: float) -> None:
    """Stop an engine or a pipeline; if it hangs, log that instead of raising."""
    try:
        engine.stop(timeout=seconds)
    except EngineHung as error:
        _log.error("%s", error)


def stop_at_exit(engine: Any) -> None:
    """Have the engine stopped before the interpreter ends: TensorFlow does not survive threads that are killed then."""
    atexit.register(_stop_at_exit, weakref.ref(engine))


def _stop_at_exit(reference: weakref.ref[Any]) -> None:
    engine = reference()
    if engine is not None:
        stop_within(engine, 0.0 if engine._is_hung else _EXIT_SECONDS)


def exit_with_status(engine: Any) -> NoReturn:
    """Raise SystemExit with the status of SIGTERM: not every request was answered."""
    error = SystemExit(STATUS)
    end_process_with(engine, error)
    raise error


def end_process_with(engine: Any, error: BaseException) -> None:
    """Let `error` end the process even if the model never returns: TensorFlow may wait for it at its own end."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        _exit_causes.append((weakref.ref(engine), error))


def _exit_despite_model_calls() -> None:
    """End the process if a model still runs: TensorFlow would wait or crash, and the exit status would be lost."""
    for reference, error in _exit_causes:
        engine = reference()
        if engine is None or not engine._has_threads:
            continue
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        if isinstance(error, KeyboardInterrupt):  # as the interpreter does then, so that a shell sees the signal
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(STATUS)


# Registered when this module is imported, so that it runs after the functions that programs register.
atexit.register(_exit_despite_model_calls)
