"""A ring as a `tf.data.Dataset`: contiguous runs of records, handed to TensorFlow without a copy.

It may not know of models. How it works:

The native op (op.py) takes the next run of records and makes tensors over it, so that what flows
through the dataset is the ring's own memory. The slots' lease is in the tensor: whoever drops the
last reference, in whatever thread, gives the slots back at that moment, without Python.

    range(for ever) > goes_on                                   one element per turn
        .flat_map((range(for ever) > next_batch).prefetch())    a turn: batches, until none came for a while

`>` is the op MapDataset with a setting that ``Dataset.map`` does not offer: StopIteration ends the
dataset. That a turn ends when it is idle gives TensorFlow a moment to notice that the iterator is
gone; else, dropping one with a prefetch in it would hang until the next record. The prefetch is
inside the turn because it looks for that only when its input says something. What lies in it when the iterator is
dropped was never handed to anyone: each element has a ticket (`csrc/feed/ticket.h`),
and goes back unless it was delivered.

It runs in the thread that asks, or a prefetch's; not in one of the pipeline's, of which there are as many as cores:
waits could keep the pipeline's other steps from running.

Where the op cannot be used, the same stands on ``Dataset.from_generator`` (generator.py):

    from_generator(turns)                                       one element per turn
        .flat_map(from_generator(batches).prefetch())           a turn, as above

Python code gets a thread of its own: in the thread that asks, TensorFlow would swallow Ctrl-C. What is lost against the
op: slots of tensors that die in TensorFlow's threads come back with the next call into Python, each element waits for
the interpreter's lock, and elements that were taken ahead are lost with their iterator.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from typing import Any

import tensorflow as tf

from ...ring import Ring
from ..tensors.elements import Element
from ..tensors.structure import lists_to_tuples
from . import waiting
from .checkpoints import refuse_checkpoints
from .generator import Source
from .op import SWITCH, deliver, why_not_native
from .op_feed import OpFeed
from .options import FeedOptions

_FOREVER = 1 << 62


class NativeOpWarning(RuntimeWarning):
    """TensorFlow did not take the native op; datasets work without it, slower."""


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
    copy: bool = False,
    native: bool | None = None,
    device: str | None = None,
) -> tf.data.Dataset:
    """Return a dataset of a ring's records, in batches that are the ring's own memory.

    An element holds its slots as long as TensorFlow refers to it; they are recycled at that very
    moment. ``for batch in ds`` leaves its variable alive after the loop, and so those slots taken:
    ``del batch``. Steps that keep many elements (``.shuffle``, ``.cache``, ``.window``, ``.batch``, a long
    ``.prefetch``) need as many slots, or ``copy=True``.

    The dataset ends when the ring is finished and drained. It is the same stream however often it is
    iterated: a second iteration goes on with the records that come then, two at a time share them,
    and after the end there are none. A stream cannot be rewound: saving an iterator in a ``tf.train.Checkpoint``, or
    restoring one, is a `RingFeedError`. An iterator that is dropped gives back what it holds: elements that were handed
    out are gone, those that it had taken ahead are there again for whoever comes next (``native=True`` only; Python
    code and `device` lose them).

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
    copy : bool
        Elements are copies, in memory of their own. Their slots are free at once, whatever TensorFlow keeps, and an
        element may be as long as the ring.
    native : bool, optional
        Take batches by the native op, which needs no Python: the default where it can be used, else a warning says
        once why not (`ringfeed.tf.why_not_native`). True insists on it. False does without, by
        ``Dataset.from_generator`` (`ringfeed.tf.generator`): then slots of tensors that die inside a graph or in a
        prefetch come back a little later, at the latest with the next element.
    device : str, optional
        Copy elements to this device (``"/GPU:0"``) while the one before is in use: `prefetch` of them, at least one.
        The copy overlaps with computing only if the ring is pinned (`Ring.pin`). Nothing can be put behind such a
        dataset but its iteration.

    Returns
    -------
    tf.data.Dataset
        Of elements in `structure`; each tensor of shape [rows, *field shape] and the field's dtype.
        Its options switch off autotuning and the prefetch that TensorFlow would add; both would
        hold batches that no one asked for.

    Raises
    ------
    ValueError, TypeError
        Something does not fit the ring, or there is no such device; the message says what.
    RuntimeError
        ``native=True``, and the op cannot be used.

    Notes
    -----
    Errors come out of the iteration as TensorFlow's `tf.errors.UnknownError`, whose message names
    ours: RingEmpty (nothing came within `timeout`), RingClosed, ProducerFailed (behind the last record, from a
    producer that raised in `Ring.producing`, with its text). Ctrl-C is a KeyboardInterrupt as
    ever, only that Keras makes a RuntimeError of it that names it. When every slot is held by
    tensors for five seconds while the dataset waits, a `StalledFeedWarning` says so, and names steps that hold them.

    Three things are not ours to mend. On an idle ring, ``ds.prefetch(n).take(m)`` ends only with the next record or
    the ring's end; ``dataset(..., prefetch=n).take(m)`` ends at once. Under a strategy, `fit` first reads some
    batches from an iterator that it drops, to learn the shapes: those records are not trained on. And from Python
    3.12 on, Keras's `predict` leaves its last batch to the garbage collector; a feed calls it when every slot is held.

    Examples
    --------
    >>> model.predict(ringfeed.tf.dataset(ring, batch_size=64, structure="image"))
    """
    if not isinstance(ring, Ring):
        raise TypeError(f"ring {ring!r:.80}: give a ringfeed.Ring. Ring.attach(name) opens one that exists.")
    refuse_checkpoints()
    element = Element.of(ring.spec, lists_to_tuples(structure), ring.name)
    plan = FeedOptions.of(ring, batch_size, min_rows, linger, timeout, prefetch, drop_remainder, copy)
    placed = None if device is None else _known_device(device)
    ahead = plan.prefetch
    if placed is not None:  # there is where batches are taken ahead, and not here as well
        plan = dataclasses.replace(plan, prefetch=0)
    if _is_native(native):
        made = _by_op(_native_feed(ring, plan), element, plan, cut)
    else:
        made = _by_generator(Source(ring, element, plan, cut=cut, in_turns=True), element, plan, cut)
    made._ringfeed_ring = ring  # the functions do not keep it: TensorFlow never lets go of them
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    made = made.with_options(options)
    return made if placed is None else _on_device(made, placed, max(ahead, 1))


def _is_native(wanted: bool | None) -> bool:
    if wanted is False:
        return False
    reason = why_not_native()
    if reason is None:
        return True
    if wanted:
        raise RuntimeError(f"native=True: the native op cannot be used here: {reason}.")
    _warn_once(reason)
    return False


@functools.cache
def _warn_once(reason: str) -> None:
    if os.environ.get(SWITCH) != "0":
        warnings.warn(
            f"RingFeed's native op cannot be used: {reason}. Datasets take their batches by "
            "Dataset.from_generator instead, which costs some 0.3 ms for each, and waits for the interpreter's lock.",
            NativeOpWarning,
            stacklevel=4,
        )


def _native_feed(ring: Ring, plan: FeedOptions) -> OpFeed:
    return OpFeed.shared(
        ring,
        most=plan.most,
        least=plan.least,
        exact=plan.exact or 0,
        ahead=plan.prefetch > 0,
        linger=plan.linger,
        timeout=plan.timeout,
        turn=waiting.ROUND_SECONDS,
        copy=plan.copy,
    )


def _by_op(feed: OpFeed, element: Element, plan: FeedOptions, cut: bool) -> tf.data.Dataset:
    """Return the dataset of the first picture above, without options."""
    spec = element.nest(element.specs(plan.exact, cut=cut))
    if plan.prefetch:
        turn = _taken_ahead(feed, element, plan, spec, cut)
    else:
        turn = _map(_endless(), lambda _: element.pack(feed.next_tensors(element), cut=cut), spec)
    turns = _map(_endless(), lambda _: feed.goes_on(), tf.TensorSpec((), tf.bool))
    made = turns.flat_map(tf.autograph.experimental.do_not_convert(lambda going: turn))
    made._ringfeed_keeps = turns, turn
    return made


def _by_generator(source: Source, element: Element, plan: FeedOptions, cut: bool) -> tf.data.Dataset:
    """Return the dataset of the second picture above, without options."""
    spec = element.nest(element.specs(plan.exact, cut=cut))
    turn = tf.data.Dataset.from_generator(source, output_signature=spec)
    if plan.prefetch:
        turn = turn.prefetch(plan.prefetch)
    turns = tf.data.Dataset.from_generator(source.turns, output_signature=tf.TensorSpec((), tf.bool))
    made = _in_own_thread(turns.flat_map(tf.autograph.experimental.do_not_convert(lambda going: turn)))
    made._ringfeed_keeps = turns, turn
    return made


def _taken_ahead(feed: OpFeed, element: Element, plan: FeedOptions, spec: Any, cut: bool) -> tf.data.Dataset:
    """Return a turn with a prefetch in it, from which elements go back that nobody gets."""
    number = tf.TensorSpec((), tf.int64)

    def take(_: tf.Tensor) -> Any:
        ticket, tensors = feed.next_with_ticket(element)
        return ticket, element.pack(tensors, cut=cut)

    def hand_over(ticket_and_element: Any) -> Any:
        ticket, handed = ticket_and_element
        deliver(ticket)
        return handed

    ahead = _map(_endless(), take, (number, spec)).prefetch(plan.prefetch)
    return _map(ahead, hand_over, spec)


def _known_device(name: str) -> str:
    """Return a device's full name."""
    devices = [device.name for device in tf.config.list_logical_devices()]
    try:
        wanted = tf.DeviceSpec.from_string(name if name.startswith("/") else f"/{name}")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"device {name!r}: {error}; there are {', '.join(devices)}.") from None
    for known in devices:
        spec = tf.DeviceSpec.from_string(known)
        if (spec.device_type, spec.device_index) == (wanted.device_type, wanted.device_index or 0):
            return str(known)
    raise ValueError(f"device {name!r}: there is none; there are {', '.join(devices)}.")


def _on_device(made: tf.data.Dataset, device: str, ahead: int) -> tf.data.Dataset:
    return made.apply(tf.data.experimental.prefetch_to_device(device, buffer_size=ahead))


def _endless() -> tf.data.Dataset:
    return tf.data.Dataset.range(_FOREVER)


def _map(source: tf.data.Dataset, function: Any, spec: Any) -> tf.data.Dataset:
    """Return ``source.map(function)``, which also ends when `function` says OUT_OF_RANGE, in the thread that asks."""
    given = source.element_spec
    concrete = tf.function(
        lambda *flat: function(tf.nest.pack_sequence_as(given, flat)),
        input_signature=tf.nest.flatten(given),
        autograph=False,
    ).get_concrete_function()
    mapped = tf.raw_ops.MapDataset(
        input_dataset=tf.data.experimental.to_variant(source),
        other_arguments=concrete.captured_inputs,
        f=concrete,
        preserve_cardinality=False,
        use_inter_op_parallelism=False,
        **_flat(spec),
    )
    made = tf.data.experimental.from_variant(mapped, spec)
    made._ringfeed_keeps = source, concrete
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
