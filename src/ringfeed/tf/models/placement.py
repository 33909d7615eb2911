"""Prepare a model for serving: in the precision that is asked for, on each device.

This file may not know rings, engines or batches.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .adapt_model import AdaptedModel, adapt_model
from .devices import replicas, resolve_devices
from .mirrored import mirror_model

if TYPE_CHECKING:
    from .precision import PrecisionReport


def place_model(
    model: Any,
    devices: Any,
    strategy: Any,
    precision: str | None,
    samples: Any,
    jit_compile: bool,
    saved: dict[str, Any],
) -> tuple[list[tuple[str, AdaptedModel]], PrecisionReport | None]:
    """Return (device, adapted model) for each device, and a report of the change of precision; see `Engine`.

    `saved` holds the signature and the tags that select a SavedModel's function.
    """
    report = None
    if strategy is not None:
        return _mirrored(model, devices, strategy, precision, jit_compile, saved), None
    if precision is not None:
        from .precision import compare, with_precision  # imported here because it imports Keras, which takes seconds

        smaller = with_precision(model, precision)
        if samples is not None:
            report = compare(model, smaller, samples)
        model = smaller
    places = resolve_devices(devices)
    return list(zip(places, replicas(model, places, jit_compile=jit_compile, **saved), strict=True)), report


def _mirrored(
    model: Any, devices: Any, strategy: Any, precision: str | None, jit_compile: bool, saved: dict[str, Any]
) -> list[tuple[str, AdaptedModel]]:
    if devices is not None:
        raise ValueError("devices and strategy: give one of them; a strategy has devices of its own.")
    if precision is not None or jit_compile:
        raise ValueError(
            "strategy: it does not support precision and jit_compile. Make the model in that precision, or compiled, "
            "under strategy.scope(), or give devices instead."
        )
    scope = getattr(strategy, "scope", contextlib.nullcontext)
    with scope():  # a path is loaded in the scope
        return [(type(strategy).__name__, mirror_model(adapt_model(model, **saved), strategy))]
