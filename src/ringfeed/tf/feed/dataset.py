"""A ring as a `tf.data.Dataset`: batches of contiguous records, passed to TensorFlow without a copy.

This file may not know models. How it works:

The native op (op.py) takes the next batch and makes tensors over it, so that the ring's own memory flows through the
dataset. Each tensor holds the lease of its slots. The thread that deletes the last reference frees the slots at that
moment, without Python.

    range(for ever) > begin_round                               one element per round
        .flat_map((range(for ever) > next_batch).prefetch())    a round: batches, until none came for a while

`>` is the op MapDataset with a setting that ``Dataset.map`` does not offer: StopIteration ends the dataset. A round
ends when it is idle, so that TensorFlow can notice that the iterator was deleted. Otherwise, deleting an iterator with
a prefetch would hang until the next record. The prefetch is inside the round because it checks for deletion only when
its input returns. The elements in it were not delivered when the iterator is deleted. So each element has a ticket
(`csrc/feed/ticket.h`), and an element that was not delivered returns to the ring.

The op runs in the thread that asks for an element, or in a prefetch's thread. It does not run in the pipeline's
threads, of which there are as many as cores: waits could block the other steps of the pipeline.

If the op cannot be used, ``Dataset.from_generator`` takes its place (generator_source.py):

    from_generator(rounds)                                      one element per round
        .flat_map(from_generator(batches).prefetch())           a round, as above

The Python code runs in a thread of its own: in the thread that asks for an element, TensorFlow would swallow Ctrl-C.
Compared with the op, it has three disadvantages. Slots of tensors that die in TensorFlow's threads are free only with
the next call into Python. Each element waits for Python's global interpreter lock. Elements that were taken ahead are
lost with their iterator.
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
from .generator_source import GeneratorSource
from .op import SWITCH, deliver, why_not_native
from .op_feed import OpFeed
from .options import FeedOptions

_FOREVER = 1 << 62


class NativeOpWarning(RuntimeWarning):
    """TensorFlow did not load the native op; datasets work without it, but slower."""


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
    """Return a dataset of a ring's records, in batches that lie in the ring's own memory.

    An element holds its slots as long as TensorFlow refers to it; then they are recycled at once. After
    ``for batch in ds``, the variable still holds the slots of the last element: ``del batch``. Steps that keep many
    elements (``.shuffle``, ``.cache``, ``.window``, ``.batch``, a long ``.prefetch``) need as many slots, or
    ``copy=True``.

    The dataset ends when the ring is finished and drained. All iterations read one stream: a second iteration continues
    with the records that follow, two iterations at a time share the records, and after the end there are none. A stream
    cannot be rewound: saving an iterator in a ``tf.train.Checkpoint``, or restoring it, raises `RingFeedError`. A
    deleted iterator frees its slots. Elements that it delivered are consumed. Elements that it had taken ahead return
    to the ring for the next taker (only with ``native=True``; Python code and `device` lose them).

    Parameters
    ----------
    ring : Ring
        An owned or attached ring. Close it after the last use of the dataset, and not before.
    batch_size : int
        Maximum number of rows of an element; at most the ring's slots. An element is also at most half of the ring, so
        that a loop that still holds one element can get the next. To keep producers busy, too, give the ring
        ``(prefetch + 2) * batch_size`` slots or more.
    structure : nest of str, optional
        Structure of an element: names of fields, and `ringfeed.tf.TAGS` for the tags, in dicts and tuples. A list
        counts as a tuple, as everywhere in `tf.data`; a single name yields a single tensor. ``("image", "label")``
        suits ``model.fit``. The default is a dict of all fields.
    min_rows : int
        Number of records to wait for. An element may still be shorter, as `Ring.take` explains.
    linger : float
        Seconds to wait for `batch_size` rows once `min_rows` are ready.
    timeout : float, optional
        Seconds to wait for an element; by default for ever.
    prefetch : int
        Number of batches to take ahead, in a thread of TensorFlow. By default a batch is taken when it is asked for, so
        that records accumulate while the model is busy.
    drop_remainder : bool
        Every element has exactly `batch_size` rows, also in its static shape; the remaining records at the end are
        dropped. Records that are not contiguous in the ring are copied. `min_rows` and `linger` have no effect.
    cut : bool
        Cut padded fields, whose samples do not fill a multiple of 64 bytes, to their shape, which copies them. False
        yields them without a copy, as [rows, stride in elements], for `ringfeed.tf.cut_padding` on the model's device.
    copy : bool
        Elements are copies in memory of their own. Their slots are free at once, regardless of what TensorFlow keeps,
        and an element may be as long as the ring.
    native : bool, optional
        Take batches by the native op, which needs no Python. The default uses the op if possible; otherwise one warning
        gives the reason (`ringfeed.tf.why_not_native`). True requires the op. False uses ``Dataset.from_generator``
        (`ringfeed.tf.generator`). Then slots of tensors that die inside a graph or in a prefetch are free a little
        later, at the latest with the next element.
    device : str, optional
        Copy elements to this device (``"/GPU:0"``) while the element before is in use: `prefetch` elements, at least
        one. The copy overlaps with computation only if the ring is pinned (`Ring.pin`). The dataset can only be
        iterated; no step can follow it.

    Returns
    -------
    tf.data.Dataset
        A dataset of elements in `structure`; each tensor has shape [rows, *field shape] and the field's dtype. Its
        options disable autotuning and the prefetch that TensorFlow would add: both would hold batches that no step
        asked for.

    Raises
    ------
    ValueError, TypeError
        An option does not fit the ring, or the device does not exist; the message names it.
    RuntimeError
        ``native=True``, and the op cannot be used.

    Notes
    -----
    Errors leave the iteration as `tf.errors.UnknownError`, whose message names the error of RingFeed: RingEmpty (no
    record within `timeout`), RingClosed, or ProducerFailed (after the last record, with the text of the error that a
    producer raised in `Ring.producing`). Ctrl-C raises KeyboardInterrupt as usual, but Keras turns it into a
    RuntimeError that names it. If tensors hold every slot for five seconds while the dataset waits, a
    `StalledFeedWarning` says so and names the steps that hold them.

    RingFeed cannot change three behaviours of TensorFlow and Keras. On an idle ring, ``ds.prefetch(n).take(m)`` ends
    only with the next record or the ring's end; ``dataset(..., prefetch=n).take(m)`` ends at once. Under a strategy,
    `fit` first reads some batches from an iterator that it deletes, to learn the shapes; these records are not trained
    on. From Python 3.12 on, Keras' `predict` leaves its last batch to the garbage collector; a feed runs the collector
    when every slot is held.

    Examples
    --------
    >>> model.predict(ringfeed.tf.dataset(ring, batch_size=64, structure="image"))
    """
    if not isinstance(ring, Ring):
        raise TypeError(f"ring {ring!r:.80}: give a ringfeed.Ring. Ring.attach(name) opens one that exists.")
    refuse_checkpoints()
    element = Element.of(ring.spec, lists_to_tuples(structure), ring.name)
    options = FeedOptions.of(ring, batch_size, min_rows, linger, timeout, prefetch, drop_remainder, copy)
    device_name = None if device is None else _known_device(device)
    on_device = options.prefetch
    if device_name is not None:  # batches are taken ahead onto the device, and not on the host, too
        options = dataclasses.replace(options, prefetch=0)
    if _is_native(native):
        made = _by_op(_op_feed(ring, options), element, options, cut)
    else:
        made = _by_generator(GeneratorSource(ring, element, options, cut=cut, in_rounds=True), element, options, cut)
    made._ringfeed_ring = ring  # the functions do not keep the ring, because TensorFlow never releases functions
    made = made.with_options(_tf_options())
    return made if device_name is None else _on_device(made, device_name, max(on_device, 1))


def _tf_options() -> tf.data.Options:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return options


def _is_native(wanted: bool | None) -> bool:
    if wanted is False:
        return False
    reason = why_not_native()
    if reason is None:
        return True
    if wanted:
        raise RuntimeError(f"native=True: the native op cannot be used here: {reason}. Leave native=True out.")
    _warn_once(reason)
    return False


@functools.cache
def _warn_once(reason: str) -> None:
    if os.environ.get(SWITCH) != "0":
        warnings.warn(
            f"RingFeed's native op cannot be used: {reason}. Datasets take their batches by Dataset.from_generator "
            "instead, which costs about 0.3 ms per batch, and waits for Python's global interpreter lock.",
            NativeOpWarning,
            stacklevel=4,
        )


def _op_feed(ring: Ring, options: FeedOptions) -> OpFeed:
    return OpFeed.shared(
        ring,
        most=options.most,
        least=options.least,
        exact=options.exact or 0,
        tickets=options.prefetch > 0,
        linger=options.linger,
        timeout=options.timeout,
        round_seconds=waiting.ROUND_SECONDS,
        copy=options.copy,
    )


def _by_op(feed: OpFeed, element: Element, options: FeedOptions, cut: bool) -> tf.data.Dataset:
    """Return the dataset of the first diagram above, without TensorFlow's options."""
    spec = element.nest(element.specs(options.exact, cut=cut))
    if options.prefetch:
        one_round = _prefetched(feed, element, options, spec, cut)
    else:
        one_round = _map(_endless(), lambda _: element.pack(feed.next_tensors(element), cut=cut), spec)
    rounds = _map(_endless(), lambda _: feed.begin_round(), tf.TensorSpec((), tf.bool))
    made = rounds.flat_map(tf.autograph.experimental.do_not_convert(lambda begun: one_round))
    made._ringfeed_keeps = rounds, one_round
    return made


def _by_generator(source: GeneratorSource, element: Element, options: FeedOptions, cut: bool) -> tf.data.Dataset:
    """Return the dataset of the second diagram above, without TensorFlow's options."""
    spec = element.nest(element.specs(options.exact, cut=cut))
    one_round = tf.data.Dataset.from_generator(source, output_signature=spec)
    if options.prefetch:
        one_round = one_round.prefetch(options.prefetch)
    rounds = tf.data.Dataset.from_generator(source.rounds, output_signature=tf.TensorSpec((), tf.bool))
    made = _in_own_thread(rounds.flat_map(tf.autograph.experimental.do_not_convert(lambda begun: one_round)))
    made._ringfeed_keeps = rounds, one_round
    return made


def _prefetched(feed: OpFeed, element: Element, options: FeedOptions, spec: Any, cut: bool) -> tf.data.Dataset:
    """Return a round with a prefetch; its elements return to the ring if they are not delivered."""
    number = tf.TensorSpec((), tf.int64)

    def take(_: tf.Tensor) -> Any:
        ticket, tensors = feed.next_with_ticket(element)
        return ticket, element.pack(tensors, cut=cut)

    def delivered(ticket_and_element: Any) -> Any:
        ticket, packed = ticket_and_element
        deliver(ticket)
        return packed

    taken = _map(_endless(), take, (number, spec)).prefetch(options.prefetch)
    return _map(taken, delivered, spec)


def _known_device(name: str) -> str:
    """Return a device's full name."""
    devices = [device.name for device in tf.config.list_logical_devices()]
    try:
        wanted = tf.DeviceSpec.from_string(name if name.startswith("/") else f"/{name}")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"device {name!r}: {error}. Give one of {', '.join(devices)}.") from None
    for known in devices:
        spec = tf.DeviceSpec.from_string(known)
        if (spec.device_type, spec.device_index) == (wanted.device_type, wanted.device_index or 0):
            return str(known)
    raise ValueError(f"device {name!r}: there is no such device. Give one of {', '.join(devices)}.")


def _on_device(made: tf.data.Dataset, device: str, prefetch: int) -> tf.data.Dataset:
    return made.apply(tf.data.experimental.prefetch_to_device(device, buffer_size=prefetch))


def _endless() -> tf.data.Dataset:
    return tf.data.Dataset.range(_FOREVER)


def _map(source: tf.data.Dataset, function: Any, spec: Any) -> tf.data.Dataset:
    """Return ``source.map(function)``, run in the thread that asks; OUT_OF_RANGE from `function` ends the dataset."""
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
