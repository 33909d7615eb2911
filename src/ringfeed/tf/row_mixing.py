"""Does a model mix the rows of a batch? Where it does, a row's result depends on what lies beside it.

It may not know of rings or feeds. There is no telling from the graph (a mean over axis 0 is a matrix product as well),
so the model is asked: the same rows, beside others, must give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_Samples = list[npt.NDArray[Any]]
_LARGEST_INDICES = (9, 1, 0)  # integers may index something whose length we do not know


def why_rows_are_mixed(call: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> str | None:
    """Return how a function was seen to mix the rows of its inputs; None where it was not.

    Parameters
    ----------
    call : callable
        From one tensor per spec to a nest of tensors.
    specs : sequence of tf.TensorSpec
        Whole shapes, of 2 rows or more.

    Returns
    -------
    str or None

    Notes
    -----
    It is called four times, with random numbers. Functions that change their own state, or draw random numbers, look as
    if they mixed rows.
    """
    error: Exception | None = None
    for largest in _LARGEST_INDICES:
        random = np.random.default_rng(7)
        try:
            return _compare(call, [_random_samples(spec, largest, random) for spec in specs], random, largest)
        except tf.errors.InvalidArgumentError as caught:  # an index beyond the end of something
            error = caught
    return f"it can not be tried on made-up rows ({error})"


def _compare(call: Callable[..., Any], samples: _Samples, random: np.random.Generator, largest: int) -> str | None:
    rows = len(samples[0])
    kept = rows // 2
    first = _outputs(call, samples)
    for output in first:
        if output.ndim == 0 or len(output) != rows:
            return f"for {rows} rows it returns an output of shape {output.shape}"
    for others in (_random_like, _zeros_like, _large_like):
        beside = [np.concatenate([part[:kept], others(part[kept:], random, largest)]) for part in samples]
        for before, after in zip(first, _outputs(call, beside), strict=True):
            if not _is_same(before[:kept], after[:kept]):
                return f"its result for row 0 to {kept - 1} changes with the rows behind them"
    return None


def _outputs(call: Callable[..., Any], samples: _Samples) -> list[npt.NDArray[Any]]:
    return [output.numpy() for output in tf.nest.flatten(call(*map(tf.constant, samples)))]


def _is_same(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> bool:
    if before.dtype.kind not in "fc" and before.dtype.name != "bfloat16":
        return bool((before == after).all())
    # Sums in another order differ in their last digits.
    digits = 1e-2 if before.dtype.itemsize <= 2 else 1e-4
    before, after = before.astype(complex), after.astype(complex)
    scale = float(np.abs(before[np.isfinite(before)]).max(initial=0.0))
    return bool(np.allclose(before, after, rtol=digits, atol=digits * scale, equal_nan=True))


def _random_samples(spec: tf.TensorSpec, largest: int, random: np.random.Generator) -> npt.NDArray[Any]:
    return _random_like(np.empty(spec.shape, spec.dtype.as_numpy_dtype), random, largest)


def _random_like(rows: npt.NDArray[Any], random: np.random.Generator, largest: int) -> npt.NDArray[Any]:
    if rows.dtype.kind in "iu":
        return random.integers(0, largest + 1, rows.shape).astype(rows.dtype)
    if rows.dtype.kind == "b":
        return random.integers(0, 2, rows.shape).astype(bool)
    return random.normal(size=rows.shape).astype(rows.dtype)


def _zeros_like(rows: npt.NDArray[Any], random: np.random.Generator, largest: int) -> npt.NDArray[Any]:
    return np.zeros_like(rows)


def _large_like(rows: npt.NDArray[Any], random: np.random.Generator, largest: int) -> npt.NDArray[Any]:
    return np.full_like(rows, largest if rows.dtype.kind in "iu" else 1 if rows.dtype.kind == "b" else 100)
