"""How an engine ends that does not by itself: with a bound on the time, and at the end of the interpreter.

It may not know how an engine serves.
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
from typing import Any

from ..errors import EngineHung
from ..terminations import STATUS
from .replica import Replica

INTERRUPT_SECONDS = 5.0
"""So long the batch under way may take when Ctrl-C ends an engine."""

_EXIT_SECONDS = 2.0
_log = logging.getLogger("ringfeed.engine")
_hung_at_termination: list[tuple[weakref.ref[Any], BaseException]] = []


def where_it_hangs(ring_name: str, model_name: str, replicas: Sequence[Replica], seconds: float) -> EngineHung:
    """Return the error of an engine that has not stopped within so many seconds."""
    now = time.monotonic()
    states = [
        f"{each.device} runs it over {runs[0]} row{'s' if runs[0] > 1 else ''} since {now - runs[1]:.1f} s"
        for each in replicas
        if (runs := each.runs) is not None
    ]
    return EngineHung(
        f"engine of model {model_name!r} on ring {ring_name!r}: not stopped after {seconds:g} s. "
        f"{'; '.join(states) or 'A thread is between two calls of the model'}. It takes no more requests, and clients "
        "are told so; those that it holds are delivered again when this process ends. End the process, or stop() again "
        "with more time."
    )


def stop_quietly(engine: Any, seconds: float) -> None:
    """Stop an engine; where it hangs, the log says so."""
    try:
        engine.stop(timeout=seconds)
    except EngineHung as error:
        _log.error("%s", error)


def stop_at_exit(engine: Any) -> None:
    """Have an engine stopped before the interpreter ends: TensorFlow does not survive its threads' end."""
    atexit.register(_stop, weakref.ref(engine))


def _stop(reference: weakref.ref[Any]) -> None:
    engine = reference()
    if engine is not None:
        stop_quietly(engine, 0.0 if engine.is_hung else _EXIT_SECONDS)


def leave_with_status(engine: Any) -> SystemExit:
    """Return what ends a process that SIGTERM ended before everything was answered."""
    ends_the_process(engine, ended := SystemExit(STATUS))
    return ended


def ends_the_process(engine: Any, error: BaseException) -> None:
    """Note what is to end the process whatever its model does: TensorFlow may wait for that at its own end."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        _hung_at_termination.append((weakref.ref(engine), error))


def _leave() -> None:
    """End the process where a model still runs: TensorFlow would wait for it or crash, and the status be lost."""
    for reference, error in _hung_at_termination:
        engine = reference()
        if engine is None or not engine.running:
            continue
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        if isinstance(error, KeyboardInterrupt):  # as the interpreter ends then, for a shell to see
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(STATUS)


atexit.register(_leave)  # when this module is imported, so that it runs behind what programs register
