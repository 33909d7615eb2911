"""A ring and a model as one function: from finished slots to outputs in a single call.

It may not know of datasets. The native op and the model stand in one graph. Python takes the batch and lays it in (so
that waiting, errors and Ctrl-C are those of any other `Ring.take`); the op fetches it by a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from ...arguments import check_int, check_seconds, check_timeout
from ...errors import RingFinished
from ...ring import Ring
from ..models.adapt_model import AdaptedModel, adapt_model
from ..models.output_spec import as_output, rows_of_each
from ..models.record_inputs import model_call, structure_for
from ..models.row_mixing import refuse_mixed_rows
from ..models.warm_up_rows import WarmUpRows
from ..tensors.elements import Element
from ..tensors.structure import lists_to_tuples
from .op import next_element, why_not_native
from .op_feed import OpFeed

PAD_WITH_RING = "ring"


def fuse(
    ring: Ring,
    model: Any,
    batch_size: int,
    *,
    structure: Any = None,
    min_rows: int = 1,
    linger: float = 0.002,
    timeout: float | None = None,
    pad: str | None = None,
    allow_row_mixing: bool = False,
    jit_compile: bool = False,
    with_tags: bool = False,
    signature: str | None = None,
    tags: str | Sequence[str] | None = None,
    warm_up: Any = None,
) -> FusedModel:
    """Put a ring and a model into one function: each call takes a batch and returns its outputs.

    Nothing is copied on the way into the model, whatever the batch's size, and the slots are recycled at the moment
    at which the model has read them.

    Parameters
    ----------
    ring : Ring
        Owned or attached.
    model : keras.Model, path, SavedModel folder, tf.function or callable
        As for `ringfeed.Engine`.
    batch_size : int
        Most rows in a call; at most the ring's slots.
    structure : nest of str, optional
        What the model is given: a nest of fields, and of `ringfeed.tf.TAGS`. A tuple or list means inputs, never
        ``(x, y)``. By default the fields that have the names of the model's inputs: of Keras inputs, of TensorSpecs
        and signatures, or of Python arguments. One field and one input belong together whatever they are called, and
        inputs whose names Keras or TensorFlow made up ("input_layer_3", "inputs_1") are the fields in their order. A
        function of one argument that no field is named after gets a dict of all. Anything else is an error that lists
        fields and inputs.
    min_rows : int
        Wait for so many records, as `Ring.take` does.
    linger : float
        Seconds to wait for `batch_size` rows once `min_rows` are there.
    timeout : float, optional
        Seconds that a call waits; by default for ever.
    pad : "ring", optional
        Give the model always `batch_size` rows, as models of a fixed shape want it, and XLA, which compiles anew for
        each number of rows. The view is extended over the slots beside, which costs nothing; the results of these
        rows, which may be half-written, are dropped. By default the model gets as many rows as there are.
    allow_row_mixing : bool
        Do not ask whether the model mixes rows before using `pad`.
    jit_compile : bool
        Compile the model with XLA.
    with_tags : bool
        Return the records' tags, too.
    signature, tags
        Which signature of a SavedModel, and which of its graphs, as for `ringfeed.Engine`.
    warm_up : nest of arrays of shape (rows, ...), optional
        As for `ringfeed.Engine`. With `pad` a model is asked on two such rows or more whether it mixes rows, where
        random numbers would not do.

    Returns
    -------
    FusedModel
        To be called, or iterated over until the ring is finished.

    Raises
    ------
    RuntimeError
        The native op cannot be used here; the message says why.
    ValueError, TypeError
        Something does not fit the ring. With `pad`: the model mixes rows, as batch statistics do, so that neighbours
        would show in the results.

    Examples
    --------
    >>> classify = ringfeed.tf.fuse(ring, model, batch_size=64, with_tags=True)
    >>> for scores, tags in classify:
    ...     results[tags] = scores.numpy()
    """
    if not isinstance(ring, Ring):
        raise TypeError(f"ring {ring!r:.80}: give a ringfeed.Ring. Ring.attach(name) opens one that exists.")
    if reason := why_not_native():
        raise RuntimeError(
            f"ring {ring.name!r}: fuse needs the native op, which cannot be used here: {reason}. "
            "Feed the model from ringfeed.tf.dataset, which does without."
        )
    batch_size = _rows("batch_size", batch_size, ring)
    min_rows = _rows("min_rows", min_rows, ring)
    if min_rows > batch_size:
        raise ValueError(f"min_rows {min_rows}: more than batch_size {batch_size}.")
    if pad not in (None, PAD_WITH_RING):
        raise ValueError(f'pad {pad!r}: give "ring", or None for batches of as many rows as there are.')
    adapted = adapt_model(model, signature, tags)
    structure = structure_for(ring.spec, adapted, ring.name) if structure is None else lists_to_tuples(structure)
    element = Element.of(ring.spec, structure, ring.name)
    step = tf.function(adapted.step, jit_compile=True, autograph=False) if jit_compile else adapted.step
    if pad and batch_size > 1 and not allow_row_mixing:
        refuse_mixed_rows(adapted, step, WarmUpRows(element, warm_up), batch_size)
    timeout = None if timeout is None else check_timeout(timeout, "timeout")
    options = {"min_rows": min_rows, "linger": check_seconds(linger, "linger"), "timeout": timeout}
    return FusedModel(ring, adapted, step, element, batch_size, options, pad is not None, with_tags)


def _rows(what: str, value: Any, ring: Ring) -> int:
    rows = check_int(value, what, 1)
    if rows > ring.slots:
        raise ValueError(f"{what} {rows}: ring {ring.name!r} has only {ring.slots} slots.")
    return rows


class FusedModel:
    """A model that takes its batches from a ring; made by `fuse`.

    Attributes
    ----------
    name : str
        Of the model.
    """

    def __init__(
        self,
        ring: Ring,
        adapted: AdaptedModel,
        step: Callable[[Any], Any],
        element: Element,
        rows: int,
        options: dict[str, Any],
        pads: bool,
        with_tags: bool,
    ) -> None:
        self.name = adapted.name
        self._ring = ring
        self._adapted = adapted  # owns the model's variables
        self._step = step
        self._element = element
        self._most_rows = rows
        self._rows: dict[str, Any] = {"most": rows, "shown": rows if pads else 0}
        self._options = options
        self._pads = pads
        self._with_tags = with_tags
        # A call needs a place of its own to lay its batch in; threads that call at a time have one each.
        self._idle: list[tuple[OpFeed, Any]] = []
        signature = [tf.TensorSpec((), tf.int64)]
        self._call = tf.function(self._graph, input_signature=signature, autograph=False).get_concrete_function()

    def __call__(self, *, timeout: float | None = None) -> Any:
        """Take a batch and run the model on it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; by default what was given to `fuse`.

        Returns
        -------
        nest of tf.Tensor, or (nest of tf.Tensor, numpy.ndarray)
            The outputs, on the host, a row for each record; with ``with_tags`` also the tags, uint64, of shape [rows].

        Raises
        ------
        RingEmpty, RingFinished, ProducerFailed, RingClosed
            As `Ring.take`. Inside a tf.function all of them are errors of TensorFlow's, the end of the data is
            `tf.errors.OutOfRangeError`.
        """
        if tf.inside_function():
            return self._in_graph()
        options = self._options if timeout is None else self._options | {"timeout": timeout}
        try:
            feed, number = self._idle.pop()
        except IndexError:
            feed = OpFeed(self._ring, **self._rows)
            number = tf.constant(feed.id, tf.int64)
        try:
            with self._ring.take(self._most_rows, **options) as batch:
                feed.park(batch)
                tags = batch.tags if self._with_tags else None
                del batch
            outputs = self._call(number)
        except BaseException:
            feed.unpark()
            raise
        finally:
            self._idle.append((feed, number))
        return outputs if tags is None else (outputs, tags)

    def __iter__(self) -> Iterator[Any]:
        """Call again and again, until the ring is finished and drained."""
        while True:
            try:
                outputs = self()
            except RingFinished:
                return
            yield outputs
            del outputs

    def __repr__(self) -> str:
        return f"<FusedModel {self.name!r} of ring {self._ring.name!r}, up to {self._most_rows} rows>"

    def _in_graph(self) -> Any:
        """Add op and model to the graph that is being made; there the op itself waits."""
        if self._with_tags:
            raise ValueError("with_tags: inside a tf.function, put ringfeed.tf.TAGS into `structure` instead.")
        least, linger, timeout = (self._options[name] for name in ("min_rows", "linger", "timeout"))
        feed = OpFeed.shared(self._ring, least=least, linger=linger, timeout=timeout, **self._rows)
        return self._graph(tf.constant(feed.id, tf.int64))

    def _graph(self, number: Any) -> Any:
        rows, _, tensors = next_element(number, self._element, self._ring.name)
        if self._pads:
            for tensor in tensors:
                tensor.set_shape((self._most_rows, *tensor.shape[1:]))
        outputs = model_call(self._step, self._element)(*tensors)
        if self._pads:
            outputs = rows_of_each(outputs, self._most_rows, self.name)
            outputs = tf.nest.map_structure(lambda output: output[:rows], outputs)
        # At the end, so that with a GPU the copy goes into TensorFlow's pinned memory.
        with tf.device("/CPU:0"):
            return tf.nest.map_structure(as_output, outputs)
