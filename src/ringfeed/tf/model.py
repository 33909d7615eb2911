"""A model of any kind as one call per batch: arrays in, arrays out.

It may not know of rings, workers or where the batches come from. A batch's axis 0 is left free when
the model is traced, so that any number of rows runs the same function; the outputs are brought to
the host inside it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .handover import PaddedRows, as_tensor
from .model_forms import ModelForm, model_form
from .outputs import to_numpy
from .structure import pack_inputs, structure_key

_Step = Callable[..., Any]


class ModelRunner:
    """Runs a model on batches, with the values of ``keras.Model.predict``.

    Parameters
    ----------
    model : keras.Model, path, SavedModel folder, tf.function or callable
        - A Keras model (functional, Sequential, subclassed), built or not; its `predict_step` is
          used, with ``training=False``, and in eager mode where it is compiled so.
        - The path of a ``.keras`` file (or any that ``keras.models.load_model`` takes).
        - The folder of a SavedModel, or the object loaded from it. Of what was saved is taken: the ``serve``
          that ``model.export`` writes, the object itself if it can be called, or its
          ``serving_default`` signature.
        - A tf.function or a callable on tensors. One with several required arguments is given the inputs
          one by one. What can not be traced is run eagerly, with a warning.
    jit_compile : bool
        Compile the model with XLA. XLA compiles anew for every number of rows: of use where the
        batches are all of one size.

    Attributes
    ----------
    name : str
        Of the model, for messages.
    input_specs : nest of (shape, dtype name), or None
        In the inputs' structure: the shape of one sample (None where an axis is free) and the dtype.
        None where the model does not say (subclassed, a callable).
    keras_model : keras.Model or None
        The model, where it is one.
    traces : int
        How many functions were made of the model so far.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        The path or object is no model; the message says what would be.
    RuntimeError
        Keras runs on another backend than TensorFlow.

    Notes
    -----
    A function is made for each structure, dtype and inner shape of the inputs; from the second
    inner shape on the axes that differ are left free as well. Weights may change in between, the
    model's layers may not. Call from one thread at a time.
    """

    def __init__(self, model: Any, *, jit_compile: bool = False) -> None:
        self._form: ModelForm = model_form(model)
        self._jit_compile = jit_compile
        self._functions: dict[Any, _Step] = {}
        self._traced: dict[Any, tuple[list[Any], _Step]] = {}
        self._is_traceable = True
        self.name = self._form.name
        self.input_specs = self._form.input_specs
        self.keras_model = self._form.keras_model
        self.traces = 0

    def __call__(self, inputs: Any) -> Any:
        """Predict one batch.

        Parameters
        ----------
        inputs : nest of arrays, tensors or PaddedRows, each of shape (rows, ...)
            A list counts as a tuple. An array that starts on 64 bytes and is C-contiguous is read in
            place, and let go of before this returns; others are copied once. None leaves an optional input out.

        Returns
        -------
        nest of numpy.ndarray
            The outputs, in memory of their own. Sparse and ragged tensors stay what they are.
        """
        return tf.nest.map_structure(to_numpy, self.run(pack_inputs(inputs)))

    def run(self, data: Any) -> Any:
        """Run the model on a batch as Keras hands it to ``predict_step``.

        Parameters
        ----------
        data : nest of arrays, tensors or PaddedRows
            x, (x,), (x, y) or (x, y, sample_weight); without lists.

        Returns
        -------
        nest of tf.Tensor
            On the host. A tensor may lie over the memory of an input.
        """
        leaves = tf.nest.flatten(data) if tf.nest.is_nested(data) else [data]
        tensors = [_tensor(leaf) for leaf in leaves]
        if self._runs_eagerly():
            step = self._form.eager_step or self._form.step
            return step(_packed(data, leaves, tensors))
        key = (structure_key(data), *map(_kind, leaves, tensors))
        function = self._functions.get(key)
        if function is None:
            function = self._function_for(data, leaves, tensors, key)
            if function is None:
                return self.run(data)
            self._functions[key] = function
        return function(*(tensor for tensor in tensors if tensor is not None))

    def _runs_eagerly(self) -> bool:
        return (
            not self._is_traceable
            or bool(getattr(self.keras_model, "run_eagerly", False))
            or tf.config.functions_run_eagerly()
        )

    def _function_for(self, data: Any, leaves: list[Any], tensors: list[Any], key: Any) -> _Step | None:
        """Find a function whose free axes cover the tensors, or make one; None if the model turns out not to trace."""
        ranks = (key[0], *(_rank(leaf, tensor) for leaf, tensor in zip(leaves, tensors, strict=True)))
        exact = [_type_spec(tensor, free_rows=True) for tensor in tensors]
        specs = exact
        if ranks in self._traced:
            known, function = self._traced[ranks]
            specs = [_merged(old, new) for old, new in zip(known, exact, strict=True)]
            if specs == known:
                return function
        failures: list[Exception] = []
        # The fewest functions first: what was declared with a fixed shape takes only its own.
        for attempt in (specs, exact, [_type_spec(tensor, free_rows=False) for tensor in tensors]):
            try:
                function = self._trace(data, leaves, attempt)
            except Exception as error:
                failures.append(error)
                continue
            if attempt is specs:
                self._traced[ranks] = specs, function
            return function
        return self._without_graph(data, leaves, tensors, failures[-1])

    def _trace(self, data: Any, leaves: list[Any], specs: list[Any]) -> _Step:
        step = tf.function(self._form.step, jit_compile=True, autograph=False) if self._jit_compile else self._form.step

        def on_host(output: Any) -> Any:
            return None if output is None else tf.identity(output)

        def function(*given: Any) -> Any:
            rest = iter(given)
            outputs = step(_packed(data, leaves, [None if spec is None else next(rest) for spec in specs]))
            with tf.device("/CPU:0"):
                return tf.nest.map_structure(on_host, outputs)

        traced = tf.function(function, autograph=False)
        concrete: _Step = traced.get_concrete_function(*(spec for spec in specs if spec is not None))
        self.traces += 1
        return concrete

    def _without_graph(self, data: Any, leaves: list[Any], tensors: list[Any], failure: Exception) -> None:
        """Go on eagerly if that works for a plain callable; raise what went wrong otherwise."""
        if self.keras_model is not None or self._form.eager_step is None:
            raise failure
        self._form.eager_step(_packed(data, leaves, tensors))
        self._is_traceable = False
        warnings.warn(
            f"model {self.name!r} can not be turned into a TensorFlow graph ({type(failure).__name__}: {failure}); it is "
            "run eagerly, which is slower. Use TensorFlow operations only to avoid this.",
            stacklevel=5,
        )


def floatx_of(runner: ModelRunner) -> str | None:
    """Return the dtype that Keras casts arrays of floats to before its models see them; None for other models."""
    keras = sys.modules.get("keras")
    if runner.keras_model is None or keras is None:
        return None
    return str(keras.config.floatx())


def _tensor(leaf: Any) -> Any:
    if leaf is None:
        return None
    return as_tensor(leaf.array if isinstance(leaf, PaddedRows) else leaf)


def _packed(data: Any, leaves: list[Any], tensors: list[Any]) -> Any:
    """Put the tensors in the structure of the batch, and cut padding off."""
    ready = [
        tf.reshape(tensor[:, : leaf.sample_elements], (-1, *leaf.sample_shape)) if isinstance(leaf, PaddedRows) else tensor
        for leaf, tensor in zip(leaves, tensors, strict=True)
    ]
    return tf.nest.pack_sequence_as(data, ready) if tf.nest.is_nested(data) else ready[0]


def _kind(leaf: Any, tensor: Any) -> Any:
    """Return what a function depends on: all but the number of rows and the values."""
    if isinstance(tensor, tf.Tensor):
        padded = leaf.sample_shape if isinstance(leaf, PaddedRows) else None
        return tensor.dtype, tuple(tensor.shape[1:]), tensor.shape.rank, padded
    return None if tensor is None else _type_spec(tensor, free_rows=True)


def _rank(leaf: Any, tensor: Any) -> Any:
    """Return what functions have in common that may differ in the lengths of their axes."""
    if isinstance(tensor, tf.Tensor):
        return tensor.dtype, tensor.shape.rank, leaf.sample_shape if isinstance(leaf, PaddedRows) else None
    return _kind(leaf, tensor)


def _type_spec(tensor: Any, *, free_rows: bool) -> Any:
    if tensor is None:
        return None
    spec = tf.type_spec_from_value(tensor)
    shape = spec.shape
    if not free_rows or not shape.rank:
        return spec
    shape = [None, *shape[1:]]
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
    return type(spec)(shape, spec.dtype)  # TensorSpec or SparseTensorSpec


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, tf.TensorSpec) or not old.shape.rank:
        return new
    lengths = [a if a == b else None for a, b in zip(old.shape, new.shape, strict=True)]
    return tf.TensorSpec(lengths, old.dtype)
