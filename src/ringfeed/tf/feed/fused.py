"""`fuse`: a ring and a model as one function, from published slots to outputs in a single call.

This file may not know datasets. The native op and the model are in one graph. Python takes the batch and passes it to
the feed, so that waits, errors and Ctrl-C are those of any other `Ring.take`. The op fetches the batch by the feed's
number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from ...arguments import check_bool, check_int, check_seconds, check_timeout
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

    The batch is not copied on its way into the model, regardless of its size. The slots are recycled at the moment when
    the model has read them.

    Parameters
    ----------
    ring : Ring
        An owned or attached ring.
    model : keras.Model, path, SavedModel folder, tf.function or callable
        As for `ringfeed.Engine`.
    batch_size : int
        Maximum number of rows of a call; at most the ring's slots.
    structure : nest of str, optional
        Inputs of the model: a nest of fields, and of `ringfeed.tf.TAGS`. A tuple or list holds inputs, never a pair of
        inputs and targets. By default each input gets the field of its name. Names are those of Keras inputs, of
        TensorSpecs and signatures, or of Python arguments. If there is one field and one input, they match regardless
        of their names. Inputs whose names Keras or TensorFlow generated ("input_layer_3", "inputs_1") get the fields in
        their order. A function of one argument gets a dict of all fields if no field has the argument's name. Otherwise
        the call raises an error that lists fields and inputs.
    min_rows : int
        Number of records to wait for, as in `Ring.take`.
    linger : float
        Seconds to wait for `batch_size` rows once `min_rows` are ready.
    timeout : float, optional
        Seconds that a call waits; by default for ever.
    pad : "ring", optional
        Always pass `batch_size` rows to the model. Models of a fixed shape need this, and XLA compiles again for each
        number of rows. The view is extended over neighbouring slots, without a cost. Their rows may be partly written;
        the results of these rows are dropped. By default the model gets only the rows of the batch.
    allow_row_mixing : bool
        Do not check whether the model mixes rows before using `pad`.
    jit_compile : bool
        Compile the model with XLA.
    with_tags : bool
        Also return the records' tags.
    signature, tags
        Selection of a SavedModel's function, as for `ringfeed.Engine`.
    warm_up : nest of arrays of shape (rows, ...), optional
        As for `ringfeed.Engine`. With `pad`, two or more rows are used to check whether the model mixes rows, for
        models that random numbers do not suit.

    Returns
    -------
    FusedModel
        A function to call, or to iterate over until the ring is finished.

    Raises
    ------
    RuntimeError
        The native op cannot be used; the message gives the reason.
    ValueError, TypeError
        An option does not fit the ring. Or, with `pad`, the model mixes rows, as batch statistics do, so that
        neighbours would change the results.

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
            "Feed the model from ringfeed.tf.dataset, which does not need the op."
        )
    batch_size = _rows("batch_size", batch_size, ring)
    min_rows = _rows("min_rows", min_rows, ring)
    if min_rows > batch_size:
        raise ValueError(f"min_rows {min_rows}: more than batch_size {batch_size}.")
    if pad not in (None, PAD_WITH_RING):
        raise ValueError(f'pad {pad!r}: give "ring", or None for batches of as many rows as there are.')
    allow_row_mixing = check_bool(allow_row_mixing, "allow_row_mixing")
    jit_compile, with_tags = check_bool(jit_compile, "jit_compile"), check_bool(with_tags, "with_tags")
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
    """A model that takes its batches from a ring; `fuse` makes it.

    Attributes
    ----------
    name : str
        The model's name.
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
        # Each call needs a feed of its own for its batch, so threads that call at a time use different feeds.
        self._idle: list[tuple[OpFeed, Any]] = []
        signature = [tf.TensorSpec((), tf.int64)]
        self._call = tf.function(self._graph, input_signature=signature, autograph=False).get_concrete_function()

    def __call__(self, *, timeout: float | None = None) -> Any:
        """Take a batch and run the model on it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; the default is the timeout that was given to `fuse`.

        Returns
        -------
        nest of tf.Tensor, or (nest of tf.Tensor, numpy.ndarray)
            The outputs on the host, one row for each record; with ``with_tags`` also the tags, uint64, of shape [rows].

        Raises
        ------
        RingEmpty, RingFinished, ProducerFailed, RingClosed
            As `Ring.take`. Inside a tf.function they are errors of TensorFlow; the end of the data is
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
                feed.set_next_batch(batch)
                tags = batch.tags if self._with_tags else None
                del batch
            outputs = self._call(number)
        except BaseException:
            feed.drop_next_batch()
            raise
        finally:
            self._idle.append((feed, number))
        return outputs if tags is None else (outputs, tags)

    def __iter__(self) -> Iterator[Any]:
        """Yield the outputs of one call after another until the ring is finished and drained."""
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
        """Add the op and the model to the graph that is being traced; in a graph the op itself waits."""
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
        # The copy to the host is in the graph, so that with a GPU it uses TensorFlow's pinned memory.
        with tf.device("/CPU:0"):
            return tf.nest.map_structure(as_output, outputs)
