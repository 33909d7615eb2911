"""Change the precision of a model, and measure how much this changes its outputs.

This file may not know rings, engines or devices. It reports measurements but decides nothing from them; the user who
serves the model decides.

Experimental: it uses private attributes of Keras (``_keras_history``, ``_flatten_layers``), which may change with any
release of Keras.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .cloning import clone, layers_of
from .runner import ModelRunner

FLOAT32 = "float32"
INT8 = "int8"
PRECISIONS = (FLOAT32, "mixed_float16", "mixed_bfloat16", "bfloat16", INT8)
_MOST_ROWS_PER_CALL = 64


def with_precision(model: Any, precision: str | None = None) -> Any:
    """Return a model that computes in another precision and returns outputs of the same dtypes. Experimental.

    Parameters
    ----------
    model : keras.Model
        A functional, Sequential or subclassed model that is built. It is not changed.
    precision : str, optional
        - None: return `model` itself.
        - "float32": compute and store everything in float32.
        - "mixed_float16", "mixed_bfloat16": Keras' policies of these names. The weights stay float32 and are cast at
          each call. Useful on GPUs with tensor cores.
        - "bfloat16": compute in bfloat16, and store the weights in it, which halves their memory.
        - "int8": Keras' ``quantize("int8")``: the weights of Dense, EinsumDense and Embedding layers take a quarter of
          their memory. Other layers stay float32, and so do layers inside wrappers such as TimeDistributed.

    Returns
    -------
    keras.Model
        A copy that is not compiled; for None, `model` itself.

    Raises
    ------
    ValueError
        The precision is unknown; or the model is not a Keras model, cannot be copied, is already quantized, or has no
        layer that can change. The message names the remedy.

    Notes
    -----
    Inputs and outputs keep their dtypes, so producers and readers of the model need no change. The layers that compute
    the outputs keep their own policy, as Keras' guide to mixed precision advises: a softmax in bfloat16 has three
    digits, and more rows in which two classes are equal. Outputs that are still in half precision are cast. If the
    model consists only of these layers, or if they are unknown, as in a subclassed model, the outputs are only cast.

    Experimental: this function uses private attributes of Keras, which may change with any release of Keras.
    """
    if precision is None:
        return model
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: give one of {', '.join(map(repr, PRECISIONS))}, or None.")
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"precision {precision!r} for {type(model).__name__}: only the precision of a Keras model can be changed. "
            "Load a path by keras.models.load_model, or give a model that computes in that precision and "
            "precision=None."
        )
    _require_changeable(model, precision)
    try:
        copy = _quantized(model) if precision == INT8 else _in_policy(model, precision)
    except ValueError as error:
        raise ValueError(
            f"{error} Or make the model itself in that precision (keras.config.set_dtype_policy), and give "
            "precision=None."
        ) from error
    return _with_dtypes_of(model, copy)


def _in_policy(model: Any, policy: str) -> Any:
    keeps = [set[int]()] if policy == FLOAT32 else [_last_layers(model), set[int]()]
    for keep in keeps:
        copy = clone(model, policy, keep)
        if policy == FLOAT32 or any(_policy(layer) == policy and layer.variables for layer in layers_of(copy)[1:]):
            return copy
    raise ValueError(f"model {model.name!r}: no layer with weights accepts the precision {policy!r}.")


def _policy(layer: Any) -> str | None:
    return getattr(getattr(layer, "dtype_policy", None), "name", None)


def _quantized(model: Any) -> Any:
    # Keras cannot quantize a layer that computes in float16.
    copy = clone(model, FLOAT32 if any(layer.compute_dtype == "float16" for layer in layers_of(model)) else None)
    layers = layers_of(copy)
    # Keras (3.6 and 3.15) also quantizes the Dense of a TimeDistributed, but then computes wrong results. And a
    # SpectralNormalization writes to the weights of its layer.
    wrapped = {id(inner) for layer in layers if isinstance(layer, keras.layers.Wrapper) for inner in layers_of(layer)}
    for layer in layers:
        if id(layer) not in wrapped and len(layers_of(layer)) == 1:
            with contextlib.suppress(NotImplementedError, AttributeError):  # as Keras' Model.quantize does
                layer.quantize(INT8)
    if not any(getattr(layer, "quantization_mode", None) for layer in layers_of(copy)):
        raise ValueError(
            f"model {model.name!r}: Keras quantizes only Dense, EinsumDense and Embedding layers; the model has none. "
            "Use 'mixed_float16' or 'bfloat16'."
        )
    return copy


def _require_changeable(model: Any, precision: str) -> None:
    quantized = [layer.name for layer in layers_of(model) if getattr(layer, "quantization_mode", None)]
    if quantized:
        raise ValueError(
            f"model {model.name!r}: layer {quantized[0]!r} is quantized already, so the precision cannot become "
            f"{precision!r}. Give the model from before the quantization."
        )


def _last_layers(model: Any) -> set[int]:
    """Return the ids of the layers that compute the outputs, also inside nested models."""
    found: set[int] = set()
    outputs = getattr(model, "outputs", None) or ()
    for operation in (tensor._keras_history.operation for tensor in outputs):
        if id(operation) not in found:
            found.add(id(operation))
            found |= _last_layers(operation) if isinstance(operation, keras.Model) else set()
    return found


def _with_dtypes_of(model: Any, copy: Any) -> Any:
    """Cast a copy's outputs to the model's dtypes if they differ."""
    outputs, wanted = getattr(copy, "outputs", None), getattr(model, "outputs", None)
    if not outputs or not wanted:
        return copy if copy.compute_dtype == model.compute_dtype else _Cast(copy, model.compute_dtype)
    if all(one.dtype == other.dtype for one, other in zip(outputs, wanted, strict=True)):
        return copy
    cast = [
        one if one.dtype == other.dtype else keras.ops.cast(one, other.dtype)
        for one, other in zip(outputs, wanted, strict=True)
    ]
    if isinstance(copy, keras.Sequential):
        return keras.Model(copy.inputs[0], cast[0], name=copy.name)
    return keras.Model(copy.input, keras.tree.pack_sequence_as(copy.output, cast), name=copy.name)


@keras.saving.register_keras_serializable("ringfeed")
class _Cast(keras.Model):  # type: ignore[misc]
    """A subclassed model whose floating-point outputs are cast to one dtype."""

    def __init__(self, model: Any, dtype: str) -> None:
        super().__init__(name=model.name, dtype=dtype)
        self.model = self.ringfeed_wraps = model
        self._floats = dtype
        self.built = True

    def predict_step(self, data: Any) -> Any:
        return keras.tree.map_structure(self._cast, self.model.predict_step(data))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.tree.map_structure(self._cast, self.model(inputs, training=training))

    def _cast(self, output: Any) -> Any:
        return keras.ops.cast(output, self._floats) if output.dtype in ("float16", "bfloat16") else output


# ---- Measuring the change ----------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputChange:
    """The change of one output.

    Attributes
    ----------
    name : str
        Name such as "output", "output['scores']" or "output[1]".
    max_absolute, mean_absolute : float
        Maximum and mean of the absolute differences between finite values.
    max_relative, mean_relative : float
        Maximum and mean of the relative differences: each difference divided by the earlier value, or by a thousandth
        of the largest value if that is more. Otherwise values near 0 would dominate.
    same_argmax : float or None
        Share of rows whose largest value has the same index on the last axis. None if that axis is shorter than two, or
        if the output is not floating-point.
    not_finite_before, not_finite_after : int
        Number of values that are NaN or infinite. A value that is not finite in only one of the models counts as no
        difference, but is counted here.
    """

    name: str
    max_absolute: float
    mean_absolute: float
    max_relative: float
    mean_relative: float
    same_argmax: float | None
    not_finite_before: int
    not_finite_after: int

    def __str__(self) -> str:
        text = (
            f"{self.name} differs by {self.mean_absolute:.2g} on average and {self.max_absolute:.2g} at most "
            f"({self.mean_relative:.2%} and {self.max_relative:.2%} of the value)"
        )
        if self.same_argmax is not None:
            text += f", with the same largest class in {self.same_argmax:.2%} of the rows"
        if self.not_finite_before or self.not_finite_after:
            text += f"; values that are not finite: {self.not_finite_before} before, {self.not_finite_after} after"
        return text


@dataclass(frozen=True)
class PrecisionReport:
    """The change of a model's outputs.

    Attributes
    ----------
    rows : int
        Number of rows of the samples.
    outputs : tuple of OutputChange
        The change of each output.
    weight_bytes_before, weight_bytes_after : int or None
        Bytes of all weights; None if the model is not a Keras model.
    """

    rows: int
    outputs: tuple[OutputChange, ...]
    weight_bytes_before: int | None
    weight_bytes_after: int | None

    def __str__(self) -> str:
        text = f"Measured on {self.rows} rows: " + "; ".join(map(str, self.outputs)) + "."
        if self.weight_bytes_before and self.weight_bytes_after is not None:
            share = self.weight_bytes_after / self.weight_bytes_before
            text += f" The weights take {self.weight_bytes_after} bytes, {share:.0%} of {self.weight_bytes_before}."
        return text


def compare(before: Any, after: Any, samples: Any) -> PrecisionReport:
    """Measure how much the outputs of two models differ on samples.

    Parameters
    ----------
    before, after : keras.Model or another model that `ringfeed.tf.models.runner.ModelRunner` accepts
        Models whose outputs have the same structure and the same shapes.
    samples : nest of arrays of shape (rows, ...)
        Inputs in the structure of the models' inputs. Give real data: random numbers are not representative.

    Returns
    -------
    PrecisionReport
        The change of each output, and of the bytes of the weights.

    Raises
    ------
    ValueError
        There are no rows, or the outputs do not correspond.
    """
    leaves = tf.nest.flatten(samples)
    rows = len(leaves[0]) if leaves else 0
    if not rows or any(len(leaf) != rows for leaf in leaves):
        raise ValueError(
            f"samples of {[len(leaf) for leaf in leaves]} rows: give the same number for each input, at least 1."
        )
    first, second = _outputs(before, samples, rows), _outputs(after, samples, rows)
    shapes = [[(name, array.shape) for name, array in outputs] for outputs in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs {shapes[0]} and {shapes[1]}: compare models whose outputs have the same shapes.")
    changes = tuple(_change(name, one, other) for (name, one), (_, other) in zip(first, second, strict=True))
    return PrecisionReport(rows, changes, weight_bytes(before), weight_bytes(after))


def weight_bytes(model: Any) -> int | None:
    """Return the bytes of all weights of a Keras model; None for another model."""
    if not isinstance(model, keras.Model):
        return None
    return sum(math.prod(map(int, weight.shape)) * int(tf.as_dtype(weight.dtype).size) for weight in model.weights)


def _outputs(model: Any, samples: Any, rows: int) -> list[tuple[str, npt.NDArray[Any]]]:
    runner = ModelRunner(model)
    parts = [_of_rows(list(_named(runner(batch))), batch, runner.name) for batch in _batches(samples, rows)]
    return [(columns[0][0], np.concatenate([array for _, array in columns])) for columns in zip(*parts, strict=True)]


def _of_rows(outputs: list[tuple[str, Any]], batch: Any, name: str) -> list[tuple[str, npt.NDArray[Any]]]:
    """Return the outputs of a batch; raise ValueError if an output does not have the batch's number of rows."""
    rows = len(tf.nest.flatten(batch)[0])
    for what, output in outputs:
        if not isinstance(output, np.ndarray) or output.shape[:1] != (rows,):
            found = list(output.shape) if isinstance(output, np.ndarray) else f"a {type(output).__name__}"
            raise ValueError(
                f"model {name!r}: {what} is {found} for {rows} rows. Return one row for each row of the inputs."
            )
    return outputs


def _batches(samples: Any, rows: int) -> Iterator[Any]:
    for start in range(0, rows, _MOST_ROWS_PER_CALL):
        some = slice(start, start + _MOST_ROWS_PER_CALL)
        yield tf.nest.map_structure(lambda leaf, some=some: np.asarray(leaf[some]), samples)


def _named(outputs: Any) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    names = tf.nest.flatten(_names(outputs, "output"))
    yield from zip(names, tf.nest.flatten(outputs), strict=True)


def _names(outputs: Any, name: str) -> Any:
    """Return a nest of the same structure that holds the names of the leaves."""
    if isinstance(outputs, dict):
        return {key: _names(value, f"{name}[{key!r}]") for key, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return [_names(value, f"{name}[{number}]") for number, value in enumerate(outputs)]
    return name


def _change(name: str, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> OutputChange:
    is_float = tf.as_dtype(before.dtype).is_floating
    one, other = before.astype(np.float64), after.astype(np.float64)
    known = np.isfinite(one) & np.isfinite(other)
    size = np.abs(one[known])
    difference = np.abs(other[known] - one[known])
    floor = max(1e-3 * size.max(initial=0.0), np.finfo(np.float32).tiny)
    relative = difference / np.maximum(size, floor)
    return OutputChange(
        name,
        float(difference.max(initial=0.0)),
        float(difference.mean()) if difference.size else 0.0,
        float(relative.max(initial=0.0)),
        float(relative.mean()) if relative.size else 0.0,
        _same_argmax(one, other) if is_float and one.ndim > 1 and one.shape[-1] > 1 else None,
        int((~np.isfinite(one)).sum()),
        int((~np.isfinite(other)).sum()),
    )


def _same_argmax(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the share of rows with the same argmax; NaN counts as the smallest value, a new row of NaN as changed."""
    places = [np.where(np.isnan(values), -np.inf, values).argmax(axis=-1) for values in (one, other)]
    lost = np.isnan(other).all(axis=-1) & ~np.isnan(one).all(axis=-1)
    return float(((places[0] == places[1]) & ~lost).mean())
