"""A ring as a `tf.data.Dataset`: contiguous runs of records, handed to TensorFlow without a copy.

It may not know of models. How it works:

A function of ours takes the next run of records and exports it through DLPack, so that what flows
through the dataset is the ring's own memory. The slots' lease is in the tensor: whoever drops the
last reference, in whatever thread, gives the slots back at that moment, without Python.

    range(for ever) > goes_on                                   one element per turn
        .flat_map((range(for ever) > next_batch).prefetch())    a turn: batches, until none came for a while

`>` is the op MapDataset with a setting that ``Dataset.map`` does not offer: StopIteration ends the
dataset. That a turn ends when it is idle gives TensorFlow a moment to notice that the iterator is
gone; else, dropping one with a prefetch in it would hang until the next record. The prefetch is
inside the turn because it looks for that only when its input says something.

All of it runs in a thread of its own. In one of the pipeline's, of which there are as many as
cores, waits could keep the pipeline's other steps from running; in the thread that asks (which would
halve the cost of ``next(iterator)``), TensorFlow swallows Ctrl-C, and a `tf.GradientTape` keeps the batch.

Not taken: `Dataset.from_generator`. It passes NumPy arrays, whose references TensorFlow keeps in a list
until some later call into Python: never exact, and with a small ring a deadlock. It costs more, too.
"""

from __future__ import annotations

import time
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .._core import Batch
from ..errors import RingClosed, RingEmpty, RingFinished
from ..nest import map_leaves
from ..ring import Ring
from .elements import Element
from .structure import lists_to_tuples
from .waiting import Wait, ctrl_c_raises, inside_python, is_ending, main_thread_asks_for_an_element

_TURN_SECONDS = 0.25
"""How long a turn may be idle, and so how long dropping an iterator may take."""

_FOREVER = 1 << 62


def dataset(
    ring: Ring,
    batch_size: int,
    *,
    structure: Any = None,
    min_rows: int = 1,
    linger: float = 0.002,
    timeout: float | None = None,
    prefetch: int = 0,
    drop_remainder: bool = False,
    cut: bool = True,
) -> tf.data.Dataset:
    """Return a dataset of a ring's records, in batches that are the ring's own memory.

    An element holds its slots as long as TensorFlow refers to it; they are recycled at that very
    moment. ``for batch in ds`` leaves its variable alive after the loop, and so those slots taken:
    ``del batch``.

    The dataset ends when the ring is finished and drained. It is the same stream however often it is
    iterated: a second iteration goes on with the records that come then, two at a time share them,
    and after the end there are none. An iterator that is dropped gives back what it holds. Those records are gone:
    without `prefetch` only the elements that were handed out, with it up to ``prefetch + 1`` batches more.

    Parameters
    ----------
    ring : Ring
        Owned or attached. Close it after the last use of the dataset, and not before.
    batch_size : int
        Most rows in an element; at most the ring's slots. An element is also at most half of
        the ring, so that a loop that still holds one can get the next. To keep producers
        busy, too, give the ring ``(prefetch + 2) * batch_size`` slots or more.
    structure : nest of str, optional
        What an element looks like: names of fields, and `ringfeed.tf.TAGS` for the tags, in dicts and tuples (a
        list counts as a tuple, as everywhere in `tf.data`); one name for a bare tensor. ``("image", "label")`` suits
        ``model.fit``. By default a dict of all fields.
    min_rows : int
        Wait for so many records. An element may still be shorter, as `Ring.take` explains.
    linger : float
        Seconds to wait for `batch_size` rows once `min_rows` are there.
    timeout : float, optional
        Seconds to wait for an element; by default for ever.
    prefetch : int
        Batches to take ahead, in a thread of TensorFlow's. By default a batch is taken when it is asked for,
        so that records gather while the model is busy.
    drop_remainder : bool
        Every element has exactly `batch_size` rows, also in its static shape; what is left at the end
        is dropped. Where the records lie apart in the ring, that takes a copy. `min_rows` and
        `linger` have no say.
    cut : bool
        Cut padded fields (whose samples do not fill a multiple of 64 bytes) to their shape, which
        copies them. False hands them over without a copy, as [rows, stride in elements], for a
        `ringfeed.tf.cut_padding` on the model's device.

    Returns
    -------
    tf.data.Dataset
        Of elements in `structure`; each tensor of shape [rows, *field shape] and the field's dtype.
        Its options switch off autotuning and the prefetch that TensorFlow would add; both would
        hold batches that no one asked for.

    Raises
    ------
    ValueError, TypeError
        Something does not fit the ring; the message says what.

    Notes
    -----
    Errors come out of the iteration as TensorFlow's `tf.errors.UnknownError`, whose message names
    ours: RingEmpty (nothing came within `timeout`), RingClosed. Ctrl-C is a KeyboardInterrupt as
    ever. When every slot is held by tensors for five seconds while the dataset waits, a
    `StalledFeedWarning` says so.

    Examples
    --------
    >>> model.predict(ringfeed.tf.dataset(ring, batch_size=64, structure="image"))
    """
    element = Element.of(ring.spec, lists_to_tuples(structure), ring.name)
    slots = ring.slots
    batch_size = _whole("batch_size", batch_size, 1)
    prefetch = _whole("prefetch", prefetch, 0)
    most = min(batch_size, (slots + 1) // 2)
    if batch_size > slots:
        raise ValueError(
            f"batch_size {batch_size}: ring {ring.name!r} has only {slots} slots, and an element is at most half of "
            "them. "
            f"Create it with slots={(prefetch + 2) * batch_size}, or ask for batches of up to {most}."
        )
    if _whole("min_rows", min_rows, 1) > most and not drop_remainder:
        raise ValueError(
            f"min_rows {min_rows}: an element of this dataset has at most {most} rows (batch_size {batch_size}, half "
            f"of the {slots} slots of ring {ring.name!r}). Ask for fewer, or add slots."
        )
    _seconds("linger", linger)
    if timeout is not None:
        _seconds("timeout", timeout)
    exact = batch_size if drop_remainder else None
    feed = _Feed(ring, element, most, min_rows, linger, timeout, exact)
    made = _build(feed, element, exact, cut, prefetch)
    made._ringfeed_ring = ring  # the functions do not keep it: TensorFlow never lets go of them
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return made.with_options(options)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least:
        return int(value)
    raise (ValueError if isinstance(value, int) else TypeError)(
        f"{name} {value!r}: give a whole number of at least {least}."
    )


def _seconds(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name} {value!r}: give seconds of at least 0.")


# ---- The datasets ------------------------------------------------------------------------------------


def _build(feed: _Feed, element: Element, exact: int | None, cut: bool, prefetch: int) -> tf.data.Dataset:
    """Return the dataset of the picture above, without options."""
    raw = list(element.specs(None, cut=False).values())
    done = element.specs(exact, cut=cut)

    def goes_on(index: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(feed.goes_on, [], tf.bool), ())

    def next_batch(index: tf.Tensor) -> Any:
        tensors = tf.py_function(feed.next_batch, [], [spec.dtype for spec in raw])
        for tensor, spec in zip(tensors, raw, strict=True):
            tensor.set_shape(spec.shape)
        return element.pack(tensors, cut=cut)

    turn = _map_until_stopped(next_batch, map_leaves(done.__getitem__, element.structure))
    if prefetch:
        turn = turn.prefetch(prefetch)
    turns = _map_until_stopped(goes_on, tf.TensorSpec((), tf.bool))
    made = _in_own_thread(turns.flat_map(tf.autograph.experimental.do_not_convert(lambda going: turn)))
    made._ringfeed_keeps = turns, turn
    return made


def _map_until_stopped(function: Any, spec: Any) -> tf.data.Dataset:
    """Return ``range(for ever).map(function)``, which ends when `function` raises StopIteration."""
    index = tf.TensorSpec((), tf.int64)
    concrete = tf.function(function, input_signature=[index], autograph=False).get_concrete_function()
    mapped = tf.raw_ops.MapDataset(
        input_dataset=tf.data.experimental.to_variant(tf.data.Dataset.range(_FOREVER)),
        other_arguments=concrete.captured_inputs,
        f=concrete,
        preserve_cardinality=False,
        **_flat(spec),
    )
    made = tf.data.experimental.from_variant(mapped, spec)
    made._ringfeed_function = concrete
    return made


def _in_own_thread(source: tf.data.Dataset) -> tf.data.Dataset:
    spec = source.element_spec
    variant = tf.data.experimental.to_variant(source)
    return tf.data.experimental.from_variant(
        tf.raw_ops.PrivateThreadPoolDataset(input_dataset=variant, num_threads=1, **_flat(spec)), spec
    )


def _flat(spec: Any) -> dict[str, list[Any]]:
    specs = tf.nest.flatten(spec)
    return {"output_types": [each.dtype for each in specs], "output_shapes": [each.shape for each in specs]}


# ---- Taking ------------------------------------------------------------------------------------------


class _Interrupted(Exception):
    """Ctrl-C came while a feed waited."""


class _Feed:
    """What TensorFlow calls, in threads of its own, for all iterators of one dataset.

    Its attributes are read and replaced whole, so that threads do not need a lock.
    """

    def __init__(
        self,
        ring: Ring,
        element: Element,
        most: int,
        min_rows: int,
        linger: float,
        timeout: float | None,
        exact: int | None,
    ) -> None:
        self._ring = weakref.ref(ring)
        self._name = ring.name
        self._element = element
        self._most = most
        self._min_rows = min_rows
        self._linger = linger
        self._timeout = timeout
        self._exact = exact
        self._ended = False
        self._stops = False  # once
        self._wait: Wait | None = None  # while no batch comes, over all turns
        self._gathered: list[_Gathered] = []

    def goes_on(self) -> bool:
        """Begin a turn, or end the dataset."""
        with inside_python():
            if self._ended or self._stops or is_ending():
                self._stops = False
                raise StopIteration
            return True

    def next_batch(self) -> list[Any]:
        """Return the tensors of the next batch, or end the turn."""
        with inside_python():
            if is_ending():
                raise StopIteration
            ring = self._ring()
            if ring is None:
                raise RingClosed(
                    f"ring {self._name!r}: it was dropped before its dataset. Keep it until the last iteration."
                )
            try:
                return self._next_of(ring) if self._exact is None else self._next_whole(ring, self._exact)
            except RingFinished:
                self._ended = True
                raise StopIteration from None
            except _Interrupted:
                return self._bring_back_to_python()

    def _bring_back_to_python(self) -> list[Any]:
        """End the wait so that the main thread runs its handler of Ctrl-C, which it does as soon as it can.

        An error would not do: TensorFlow makes its exception with Python code, in which the handler then runs
        already, and what comes out is a RuntimeError ("... REPLACED BY KeyboardInterrupt"). So
        ``next(iterator)`` gets an element that no one will see, and a graph gets the end of the data.
        """
        if not ctrl_c_raises():
            raise InterruptedError(f"ring {self._name!r}: SIGINT ended a feed's wait for records.")
        if main_thread_asks_for_an_element():
            return self._element.nothing(self._exact or 0)
        self._stops = True
        raise StopIteration

    def _next_of(self, ring: Ring) -> list[Any]:
        batch = self._take(ring, self._most, self._min_rows)
        if batch is None:
            raise StopIteration
        with batch:
            return self._element.hand_over(batch)

    def _next_whole(self, ring: Ring, rows: int) -> list[Any]:
        """Return exactly `rows` rows: a batch as it is, or, where records lie apart, copies of several."""
        gathered = self._gathered.pop() if self._gathered else _Gathered(self._element)
        while True:
            most = min(self._most, rows - gathered.rows)
            batch = self._take(ring, most, most)
            if batch is None:
                self._gathered.append(gathered)
                raise StopIteration
            with batch:
                if len(batch) == rows:
                    return self._element.hand_over(batch)
                gathered.add(batch)
            if gathered.rows == rows:
                return gathered.tensors()

    def _take(self, ring: Ring, most: int, least: int) -> Batch | None:
        """Take a batch; None when the turn is over before one came."""
        wait = self._wait
        if wait is None or wait.was_abandoned():
            wait = self._wait = Wait()
        turn_ends = time.monotonic() + _TURN_SECONDS

        def is_idle() -> bool:
            if is_ending():
                return True
            if wait.is_interrupted():
                raise _Interrupted
            stats = ring.stats()
            wait.check_stall(ring, stats)
            # Where enough is ready, the ring waits for more of it, as `linger` says.
            return stats["ready"] < least and time.monotonic() >= turn_ends

        try:
            batch = ring.take(
                most,
                min_rows=least,
                timeout=wait.seconds_left(self._timeout),
                linger=self._linger,
                while_waiting=is_idle,
            )
        except RingEmpty:
            if wait.seconds_left(self._timeout) != 0:
                wait.pause()
                return None
            self._wait = None
            raise RingEmpty(
                f"ring {self._name!r}: {ring.stats()['ready']} of {least} records ready after {self._timeout:g} s; the "
                "producers are slower than the feed, or tensors that are alive hold their slots. Wait longer "
                "(timeout=), add producers, or drop tensors sooner."
            ) from None
        except BaseException:
            self._wait = None
            raise
        self._wait = None
        return batch


class _Gathered:
    """Rows of several batches, copied."""

    def __init__(self, element: Element) -> None:
        self.rows = 0
        self._element = element
        self._parts: list[list[npt.NDArray[Any]]] = [[] for _ in element.fields]

    def add(self, batch: Batch) -> None:
        for part, rows in zip(self._parts, self._element.arrays(batch), strict=True):
            part.append(rows.copy())
        self.rows += len(batch)

    def tensors(self) -> list[Any]:
        return [tf.constant(np.concatenate(part)) for part in self._parts]
