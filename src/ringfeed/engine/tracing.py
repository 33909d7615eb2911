"""Marks each batch in the traces of TensorFlow's profiler, and of OpenTelemetry if the program uses it.

It may not know what is done with the batch.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import tensorflow as tf


class BatchTracer:
    """Marks each batch.

    Parameters
    ----------
    ring_name, model_name : str
        Attributes of each mark.
    """

    def __init__(self, ring_name: str, model_name: str) -> None:
        self._attributes = {"ringfeed.ring": ring_name, "ringfeed.model": model_name}
        self._tracer = _open_telemetry_tracer()
        self._number = 0

    def batch(self, rows: int, device: str) -> Any:
        """Return a context manager in which the batch runs."""
        self._number += 1
        mark = tf.profiler.experimental.Trace("ringfeed.batch", step_num=self._number, rows=rows, _r=1)
        if self._tracer is None:
            return mark
        stack = ExitStack()
        stack.enter_context(mark)
        attributes = {**self._attributes, "ringfeed.rows": rows, "ringfeed.device": device}
        stack.enter_context(self._tracer.start_as_current_span("ringfeed.batch", attributes=attributes))
        return stack


def _open_telemetry_tracer() -> Any:
    """Return a tracer if the program has set OpenTelemetry up; otherwise None, so that no span is made in vain."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider":
        return None
    return trace.get_tracer("ringfeed")
