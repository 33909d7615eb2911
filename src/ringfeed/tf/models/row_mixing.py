"""Does a model mix the rows of a batch? Where it does, a row's result depends on what lies beside it.

It may not know of rings or how they are fed. There is no telling from the graph (a mean over axis 0 is a matrix product
as well), so the model is asked: the same rows, beside others, must give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .adapted_model import AdaptedModel
from .record_inputs import model_call
from .warm_up_rows import WarmUpRows

_Samples = list[npt.NDArray[Any]]
_REPEATS = 8
_LARGEST_INDICES = (9, 1, 0)  # integers may index something whose length we do not know


def refuse_mixed_rows(
    adapted: AdaptedModel, step: Callable[[Any], Any], warm_up_rows: WarmUpRows, rows: int, option: str = 'pad="ring"'
) -> None:
    """Raise where the model's results for a row depend on those beside it, which padding would let in.

    Raises
    ------
    ValueError
        They do, or it cannot be found out; the message says what to do.
    """
    specs = list(warm_up_rows.element.specs(rows, cut=False).values())
    call = tf.function(model_call(step, warm_up_rows.element), input_signature=specs, autograph=False)
    try:
        reason = why_rows_are_mixed(call, specs, warm_up_rows)
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        raise warm_up_rows.explain(error, adapted.name) from error
    if reason is not None:
        raise ValueError(
            f"model {adapted.name!r}: {option} would let the slots beside a batch into its results, because the model "
            f"mixes rows: {reason}. Leave it out, or say allow_row_mixing=True if that is wanted."
        )


def why_rows_are_mixed(
    call: Callable[..., Any], specs: Sequence[tf.TensorSpec], warm_up_rows: WarmUpRows | None = None
) -> str | None:
    """Return how a function was seen to mix the rows of its inputs; None where it was not.

    Parameters
    ----------
    call : callable
        From one tensor per spec to a nest of tensors.
    specs : sequence of tf.TensorSpec
        Whole shapes, of 2 rows or more.
    warm_up_rows : WarmUpRows, optional
        Where it has samples, these are the rows; by default they are random numbers.

    Returns
    -------
    str or None

    Notes
    -----
    It is called four times. Functions that change their own state, or draw random numbers, look as if they mixed rows.
    """
    if warm_up_rows is not None and warm_up_rows.samples is not None:
        return _compare_samples(call, warm_up_rows, int(specs[0].shape[0]))
    error: Exception | None = None
    for largest in _LARGEST_INDICES:
        random = np.random.default_rng(7)
        try:
            return _compare(call, [_random_samples(spec, largest, random) for spec in specs], random, largest)
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as caught:  # an index beyond the end of something, say
            error = caught
    return f"it cannot be tried on made-up rows, so give some of your own as warm_up= ({error})"


def why_parts_differ(
    call: Callable[[dict[str, npt.NDArray[Any]]], Any], rows: dict[str, npt.NDArray[Any]], outputs: Any
) -> str | None:
    """Return how a model was seen to mix the rows of a batch; None where it was not.

    Parameters
    ----------
    call : callable
        Runs the model on rows; None where it may not be run once more than needed.
    rows : dict of arrays of shape (rows, ...)
        Two rows or more.
    outputs : nest
        What the model returned for these rows.

    Notes
    -----
    It is called for some single rows and for each half, and some times more where one seems to differ: a model that
    draws random numbers does not mix rows. What the model raises for a part says nothing. What changes only beside
    certain rows may not be seen.
    """
    count = len(next(iter(rows.values())))
    alone_rows = {0, count // 3, count // 2, 2 * count // 3, count - 1}
    parts = {*((row, row + 1) for row in alone_rows), (0, count // 2), (count // 2, count)}
    for start, stop in sorted(parts, key=lambda part: part[1] - part[0]):
        part = {name: array[start:stop] for name, array in rows.items()}
        try:
            alone = call(part)
            if alone is None:
                return None
            if not _is_same_for(outputs, alone, start):
                is_random = any(not _is_same_for(alone, call(part), 0) for _ in range(_REPEATS))
                return None if is_random else f"its results for {stop - start} of {count} rows change with the others"
        except tf.errors.ResourceExhaustedError:
            raise
        except Exception:
            continue
    return None


def _is_same_for(outputs: Any, of_part: Any, start: int) -> bool:
    """Compare outputs with those of a part of their rows."""
    for whole, some in zip(tf.nest.flatten(outputs), tf.nest.flatten(of_part), strict=True):
        if some is None or whole is None:
            continue
        rows = int(some.shape[0])
        for before, after in zip(_arrays_of(whole, start, rows), _arrays_of(some, 0, rows), strict=True):
            if before.shape != after.shape or not _is_same(_numbers_of(before), _numbers_of(after)):
                return False
    return True


def _numbers_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what was made of floats as floats: their last digits change with the number of rows."""
    if array.dtype.kind in "OSU":
        try:
            return array.astype(np.float64)
        except ValueError:
            return array
    return array.astype(np.float64) if array.dtype.kind in "iu" else array


def _arrays_of(output: Any, start: int, rows: int) -> _Samples:
    """Return what tells some rows of an output from others, as arrays."""
    if isinstance(output, tf.SparseTensor):
        output = tf.sparse.to_dense(output).numpy()
    part = output[start : start + rows]
    if isinstance(part, tf.RaggedTensor):
        return [part.flat_values.numpy(), *(lengths.numpy() for lengths in part.nested_row_lengths())]
    return [np.asarray(part)]


def _compare_samples(call: Callable[..., Any], warm_up_rows: WarmUpRows, rows: int) -> str | None:
    """Compare results of rows whose neighbours are other rows of the samples."""
    assert warm_up_rows.samples is not None
    there = len(warm_up_rows.samples[0])
    if all(_is_same(part, np.repeat(part[:1], there, axis=0)) for part in warm_up_rows.samples):
        return "that cannot be found out from one row of warm_up; give two that differ, or more"
    kept, numbers = rows // 2, np.arange(rows)
    first = _outputs(call, warm_up_rows.arrays(numbers % there))
    if reason := _rows_differ(first, rows):
        return reason
    for behind in ((numbers + 1) % there, numbers * 0, numbers * 0 + there - 1):
        beside = warm_up_rows.arrays(np.where(numbers < kept, numbers % there, behind))
        if reason := _results_differ(first, _outputs(call, beside), kept):
            return reason
    return None


def _compare(call: Callable[..., Any], samples: _Samples, random: np.random.Generator, largest: int) -> str | None:
    rows = len(samples[0])
    kept = rows // 2
    first = _outputs(call, samples)
    if reason := _rows_differ(first, rows):
        return reason
    for others in (_random_like, _zeros_like, _large_like):
        beside = [np.concatenate([part[:kept], others(part[kept:], random, largest)]) for part in samples]
        if reason := _results_differ(first, _outputs(call, beside), kept):
            return reason
    return None


def _rows_differ(outputs: _Samples, rows: int) -> str | None:
    for output in outputs:
        if output.ndim == 0 or len(output) != rows:
            return f"for {rows} rows it returns an output of shape {output.shape}"
    return None


def _results_differ(first: _Samples, second: _Samples, kept: int) -> str | None:
    for before, after in zip(first, second, strict=True):
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
