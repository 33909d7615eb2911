"""The model that an engine serves: in its precision, on its devices.

It may not know of rings, engines or batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .devices import replicas, resolve_devices
from .mirrored import mirrored_form
from .model_forms import ModelForm, model_form

if TYPE_CHECKING:
    from .precision import PrecisionReport


def placed(
    model: Any, devices: Any, strategy: Any, precision: str | None, samples: Any, jit_compile: bool
) -> tuple[list[tuple[str, ModelForm]], PrecisionReport | None]:
    """Return a model as (device, form) for each device, and what its precision changed; see `Engine`."""
    report = None
    if precision is not None:
        from .precision import compare, with_precision  # it needs Keras, which takes its time

        smaller = with_precision(model, precision)
        if samples is not None:
            report = compare(model, smaller, samples)
        model = smaller
    if strategy is not None:
        if devices is not None:
            raise ValueError("devices and strategy: give one of them; a strategy has devices of its own.")
        return [(type(strategy).__name__, mirrored_form(model_form(model), strategy))], report
    places = resolve_devices(devices)
    return list(zip(places, replicas(model, places, jit_compile=jit_compile), strict=True)), report
