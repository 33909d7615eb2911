"""A model of any kind as one call per batch: arrays in, arrays out.

It may not know of rings, workers or where the batches come from. A batch's axis 0 is left free when
the model is traced, so that any number of rows runs the same function; the outputs are brought to
the host inside it.
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..tensors.outputs import all_to_numpy
from ..tensors.structure import pack_inputs, structure_key
from ..tensors.zero_copy import PaddedRows, as_tensor
from .adapt_model import AdaptedModel, adapt_model
from .declared_dtypes import LossyCast
from .direct_call import direct_step
from .side_effects import has_side_effects

_Step = Callable[..., Any]

_MOST_ROW_COUNTS = 64
"""Functions of one number of rows that are kept; the one that was used longest ago goes first."""


class ModelRunner:
    """Runs a model on batches, with the values of ``keras.Model.predict``.

    Parameters
    ----------
    model : keras.Model, path, SavedModel folder, tf.function or callable
        - A Keras model (functional, Sequential, subclassed), built or not; its `predict_step` is
          used, with ``training=False``, and in eager mode where it is compiled so.
        - The path of a ``.keras`` or ``.h5`` file (or any that ``keras.models.load_model`` takes). Its optimizer,
          losses and metrics are not restored.
        - The folder of a SavedModel, or the object loaded from it. Of what was saved is taken: the ``serve``
          that ``model.export`` writes, the object itself if it can be called, or its
          ``serving_default`` signature. Of one whose objects TensorFlow cannot restore, as Keras 2 saved them with an
          optimizer, the signature is made of its graph and its variables.
        - A tf.function or a callable on tensors. One with several required arguments is given the inputs
          one by one. What cannot be traced is run eagerly, with a warning.
    jit_compile : bool
        Compile the model with XLA. XLA compiles anew for every number of rows: of use where the
        batches are all of one size.
    signature : str, optional
        Of a SavedModel: call it by this signature.
    tags : str or sequence of str, optional
        Of a SavedModel's folder: take its graph of these tags. By default the only one, else that of "serve".

    Attributes
    ----------
    name : str
        Of the model, for messages.
    input_specs : nest of (shape, dtype name), or None
        In the inputs' structure: the shape of one sample (None where an axis is free) and the dtype.
        None where the model does not say (subclassed, a callable).
    input_names : list of (str or None), or None
        The model's names for the leaves of `input_specs`, in the order in which ``tf.nest`` flattens them; None in the
        place of a name that the model does not have, or that Keras or TensorFlow made up ("input_layer_3"). None
        altogether where the model does not say its inputs. Functions of several arguments have names, those of their
        arguments, though they say no shapes.
    keras_model : keras.Model or None
        The model, where it is one.
    adapted : AdaptedModel
        The model as a function.
    traces : int
        How many functions were made of the model so far.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        The path or object is no model; the message says what would be. There is no such signature, or no graph of these
        tags; the message lists those there are.
    RuntimeError
        Keras runs on another backend than TensorFlow.

    Notes
    -----
    A function is made for each structure, dtype and inner shape of the inputs; from the second
    inner shape on the axes that differ are left free as well. A model that cannot be traced with a
    free number of rows, because it reads ``x.shape[0]`` in Python or was declared for one number, gets a function for
    each number of rows. Weights may change in between, the model's layers may not. Call from one thread at a time.
    """

    def __init__(
        self,
        model: Any,
        *,
        jit_compile: bool = False,
        signature: str | None = None,
        tags: str | Sequence[str] | None = None,
    ) -> None:
        self.adapted: AdaptedModel = adapt_model(model, signature, tags)
        self._jit_compile = jit_compile
        self._functions: dict[Any, _Step] = {}
        self._traced: dict[Any, tuple[list[Any], _Step]] = {}
        self._of_one_length: OrderedDict[Any, _Step] = OrderedDict()
        self._needs_length: set[Any] = set()
        self._is_traceable = True
        self.name = self.adapted.name
        self.input_specs = self.adapted.input_specs
        self.input_names = self.adapted.input_names
        self.keras_model = self.adapted.keras_model
        self.traces = 0

    def __call__(self, inputs: Any) -> Any:
        """Predict one batch.

        Parameters
        ----------
        inputs : nest of arrays, tensors or PaddedRows, each of shape (rows, ...)
            A mapping of any class is read by the names of the model's inputs, whatever the order of its keys; those
            that the model has no input for are left out. One value for the only input needs no name. Keras inputs to
            which nobody gave a name have those of their layers ("input_layer_2"). A model that has no names at all is
            given the values in their order. A list counts as a tuple. An array that starts on 64 bytes and is
            C-contiguous is read in place, and let go of before this returns; others are copied once. None leaves an
            optional input out.

        Returns
        -------
        nest of numpy.ndarray
            The outputs, in memory of their own. Sparse and ragged tensors stay what they are.
        """
        return all_to_numpy(self.run(pack_inputs(inputs)))

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
        return self.prepare(data)()

    def prepare(self, data: Any) -> Callable[[], Any]:
        """Find or trace the function for a batch, and return a call of it that takes nothing.

        So an error of the model's form, which every batch of this kind would have, is told from one over the numbers of
        this batch. The call keeps the batch.

        Parameters
        ----------
        data : nest
            As for `run`.
        """
        if self.adapted.fit is not None:
            try:
                data = self.adapted.fit(data)
            except LossyCast as error:
                return functools.partial(_refuse, error.with_traceback(None))  # whose frames hold the batch
        leaves = tf.nest.flatten(data) if tf.nest.is_nested(data) else [data]
        tensors = [_tensor(leaf) for leaf in leaves]
        if self._runs_eagerly():
            packed = _Layout(data, leaves).packed(tensors)
            return lambda: self._eager_step(packed)
        key = (structure_key(data), *map(_kind, leaves, tensors))
        function = self._functions.get(key)
        if function is None:
            function = self._function_for(_Layout(data, leaves), tensors, key)
        return functools.partial(function, *(tensor for tensor in tensors if tensor is not None))

    def may_be_tried(self, call: Callable[[], Any]) -> bool:
        """Tell whether a call that `prepare` returned may be made once more than needed: nobody would see it.

        Of one that runs eagerly nobody knows; it may, for nothing else tells whether it takes a batch.
        """
        step = getattr(call, "func", None)
        concrete = getattr(step, "concrete", step)
        return not hasattr(concrete, "graph") or not has_side_effects(concrete)

    def refusal_of(self, call: Callable[[], Any]) -> Exception | None:
        """Return why no batch of this kind can be run, where a call that `prepare` returned would try it eagerly.

        An operation that refuses the batch's shapes in a graph does so eagerly as well, and some kernels of TensorFlow
        end the process over them.
        """
        failure = getattr(getattr(call, "func", None), "failure", None)
        return failure if "{{node" in str(failure) else None

    @property
    def _eager_step(self) -> _Step:
        return self.adapted.eager_step or self.adapted.step

    def _runs_eagerly(self) -> bool:
        return (
            not self._is_traceable
            or bool(getattr(self.keras_model, "run_eagerly", False))
            or tf.config.functions_run_eagerly()
        )

    def _function_for(self, layout: _Layout, tensors: list[Any], key: tuple[Any, ...]) -> _Step:
        """Find a function whose free axes cover the tensors, or make one."""
        family = (key[0], *map(_family, tensors), *layout.sample_shapes)
        exact = [_type_spec(tensor, free_rows=True) for tensor in tensors]
        specs = exact
        if family in self._traced:
            known, function = self._traced[family]
            specs = [_merged(old, new) for old, new in zip(known, exact, strict=True)]
            if specs == known:
                return function
        attempts = [] if key in self._needs_length else [specs, exact]  # the one that serves most batches first
        for number, attempt in enumerate(attempts):
            if attempt in attempts[:number]:
                continue
            try:
                function = self._trace(layout, attempt)
            except Exception as error:
                failure = error
                continue
            if number == 0:
                self._traced[family] = specs, function
            self._functions[key] = function
            return function
        try:
            return self._function_of_one_length(layout, tensors, key)
        except Exception as error:
            failure = error
        function = self._without_graph(layout, failure)
        if key not in self._needs_length:
            self._functions[key] = function
        return function

    def _function_of_one_length(self, layout: _Layout, tensors: list[Any], key: tuple[Any, ...]) -> _Step:
        """Find or make a function for this number of rows alone: Python code of the model may have computed with it."""
        specs = [_type_spec(tensor, free_rows=False) for tensor in tensors]
        own_key = (key, *specs)
        function = self._of_one_length.get(own_key)
        if function is None:
            function = self._of_one_length[own_key] = self._trace(layout, specs)
            self._needs_length.add(key)
            if len(self._of_one_length) > _MOST_ROW_COUNTS:
                self._of_one_length.popitem(last=False)
        self._of_one_length.move_to_end(own_key)
        return function

    def _trace(self, layout: _Layout, specs: list[Any]) -> _Step:
        step = (
            tf.function(self.adapted.step, jit_compile=True, autograph=False)
            if self._jit_compile
            else self.adapted.step
        )

        def on_host(output: Any) -> Any:
            return None if output is None else tf.identity(output)

        def function(*given: Any) -> Any:
            outputs = step(layout.packed(_with_nones(given, specs)))
            with tf.device("/CPU:0"):
                return tf.nest.map_structure(on_host, outputs)

        traced = tf.function(function, autograph=False)
        concrete = traced.get_concrete_function(*(spec for spec in specs if spec is not None))
        self.traces += 1
        return direct_step(concrete)

    def _without_graph(self, layout: _Layout, failure: Exception) -> _Step:
        """Return a step that runs a plain callable eagerly; raise what went wrong where the model is none."""
        if self.keras_model is not None or self.adapted.eager_step is None:
            raise failure
        step, reason = self.adapted.eager_step, f"{type(failure).__name__}: {failure}"

        def eagerly(*given: Any) -> Any:
            outputs = step(layout.packed(_with_nones(given, layout.present)))
            if self._is_traceable:  # only now is it known that the graph was the trouble
                self._is_traceable = False
                warnings.warn(
                    f"model {self.name!r} cannot be turned into a TensorFlow graph ({reason}); it is run eagerly, "
                    "which is slower. Use TensorFlow operations only to avoid this.",
                    stacklevel=4,
                )
            return outputs

        eagerly.failure = failure  # type: ignore[attr-defined]
        return eagerly


class _Layout:
    """How the tensors of a batch are put together; holds none of the batch's memory."""

    def __init__(self, data: Any, leaves: list[Any]) -> None:
        self._is_nested = tf.nest.is_nested(data)
        self._template = tf.nest.map_structure(lambda _: None, data) if self._is_nested else None
        self.sample_shapes = [leaf.sample_shape if isinstance(leaf, PaddedRows) else None for leaf in leaves]
        self.present = [None if leaf is None else True for leaf in leaves]

    def packed(self, tensors: list[Any]) -> Any:
        """Put the tensors in the structure of the batch, and cut padding off."""
        ready = [
            tensor if shape is None else tf.reshape(tensor[:, : math.prod(shape)], (-1, *shape))
            for tensor, shape in zip(tensors, self.sample_shapes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._template, ready) if self._is_nested else ready[0]


def _refuse(error: Exception) -> Any:
    raise error


def _with_nones(given: tuple[Any, ...], present: list[Any]) -> list[Any]:
    rest = iter(given)
    return [None if mark is None else next(rest) for mark in present]


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


def _kind(leaf: Any, tensor: Any) -> Any:
    """Return what a function depends on: all but the number of rows and the values."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype, leaf.shape[1:], leaf.ndim
    if isinstance(leaf, PaddedRows):
        return tensor.dtype, tuple(tensor.shape[1:]), leaf.sample_shape
    return None if tensor is None else _type_spec(tensor, free_rows=True)


def _family(tensor: Any) -> Any:
    """Return what functions have in common whose inputs differ in the lengths of their axes."""
    if isinstance(tensor, tf.Tensor):
        return tensor.dtype, tensor.shape.rank
    return None if tensor is None else _type_spec(tensor, free_rows=True)


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
