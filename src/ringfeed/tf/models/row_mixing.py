"""Find out whether a model mixes the rows of a batch, so that a row's result depends on its neighbours.

This file may not know rings or how they are fed. The graph does not show it: a mean over axis 0 can be a matrix
product. So the model is run: the same rows beside other rows must give the same results.
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
_LARGEST_INDICES = (9, 1, 0)  # integers may be indices into a table of unknown length


def refuse_mixed_rows(
    adapted: AdaptedModel, step: Callable[[Any], Any], warm_up_rows: WarmUpRows, rows: int, option: str = 'pad="ring"'
) -> None:
    """Raise if the model's result for a row depends on its neighbours, because padding would change the neighbours.

    Raises
    ------
    ValueError
        The model mixes rows, or this cannot be determined; the message names the remedy.
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
            f"model {adapted.name!r}: with {option}, the slots beside a batch would change its results, because the "
            f"model mixes rows: {reason}. Leave the option out, or accept this by allow_row_mixing=True."
        )


def why_rows_are_mixed(
    call: Callable[..., Any], specs: Sequence[tf.TensorSpec], warm_up_rows: WarmUpRows | None = None
) -> str | None:
    """Describe how a function mixes the rows of its inputs; return None if no mixing was observed.

    Parameters
    ----------
    call : callable
        Function from one tensor per spec to a nest of tensors.
    specs : sequence of tf.TensorSpec
        Complete shapes, of 2 rows or more.
    warm_up_rows : WarmUpRows, optional
        The rows to use, if it has samples. By default the rows are random numbers.

    Returns
    -------
    str or None
        The description.

    Notes
    -----
    The function is called four times. A function that changes its own state, or draws random numbers, is reported as
    mixing rows.
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
        except tf.errors.OpError as caught:  # for example, an index was out of range
            error = caught
    return f"it fails on random rows, so give rows of your own as warm_up= ({error})"


def why_parts_differ(
    call: Callable[[dict[str, npt.NDArray[Any]]], Any], rows: dict[str, npt.NDArray[Any]], outputs: Any
) -> str | None:
    """Describe how a model mixes the rows of a batch; return None if no mixing was observed.

    Parameters
    ----------
    call : callable
        Runs the model on rows; returns None if the model may not be run an additional time.
    rows : dict of arrays of shape (rows, ...)
        Two rows or more.
    outputs : nest
        The model's outputs for these rows.

    Notes
    -----
    The model is called for some single rows and for each half of the batch. If a result differs, the call is repeated
    to recognise a model that draws random numbers, which does not mix rows. An error that the model raises for a part
    is ignored. An influence of only certain rows may be missed.
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
    """Tell whether outputs equal those that were computed from a part of their rows alone."""
    for whole, some in zip(tf.nest.flatten(outputs), tf.nest.flatten(of_part), strict=True):
        if some is None or whole is None:
            continue
        rows = int(some.shape[0])
        for before, after in zip(_arrays_of(whole, start, rows), _arrays_of(some, 0, rows), strict=True):
            if before.shape != after.shape or not _is_same(_numbers_of(before), _numbers_of(after)):
                return False
    return True


def _numbers_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return numbers and texts of numbers as floats: their last digits may change with the number of rows."""
    if array.dtype.kind in "OSU":
        try:
            return array.astype(np.float64)
        except ValueError:
            return array
    return array.astype(np.float64) if array.dtype.kind in "iu" else array


def _arrays_of(output: Any, start: int, rows: int) -> _Samples:
    """Return some rows of an output as arrays to compare: values, and the row lengths of a ragged output."""
    if isinstance(output, tf.SparseTensor):
        output = tf.sparse.to_dense(output).numpy()
    part = output[start : start + rows]
    if isinstance(part, tf.RaggedTensor):
        return [part.flat_values.numpy(), *(lengths.numpy() for lengths in part.nested_row_lengths())]
    return [np.asarray(part)]


def _compare_samples(call: Callable[..., Any], warm_up_rows: WarmUpRows, rows: int) -> str | None:
    """Compare the results of rows beside different rows of the samples."""
    assert warm_up_rows.samples is not None
    there = len(warm_up_rows.samples[0])
    if all(_is_same(part, np.repeat(part[:1], there, axis=0)) for part in warm_up_rows.samples):
        return "one row of warm_up cannot show the contrary; give at least two different rows"
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
            return f"its result for rows 0 to {kept - 1} changes with the rows behind them"
    return None


def _outputs(call: Callable[..., Any], samples: _Samples) -> list[npt.NDArray[Any]]:
    return [output.numpy() for output in tf.nest.flatten(call(*map(tf.constant, samples)))]


def _is_same(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> bool:
    if before.dtype.kind not in "fc" and before.dtype.name != "bfloat16":
        return bool((before == after).all())
    # Sums of the same numbers in another order differ in their last digits.
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
