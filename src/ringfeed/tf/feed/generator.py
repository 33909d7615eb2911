"""`generator` and `element_spec`: the batches of a ring for the user's own `tf.data.Dataset.from_generator`.

This file may not know the native op, nor how batches are taken (generator_source.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...ring import Ring
from ..tensors.elements import Element
from ..tensors.structure import lists_to_tuples
from .checkpoints import refuse_checkpoints
from .generator_source import GeneratorSource
from .options import FeedOptions


def generator(
    ring: Ring,
    batch_size: int,
    *,
    structure: Any = None,
    min_rows: int = 1,
    linger: float = 0.002,
    timeout: float | None = None,
    drop_remainder: bool = False,
    cut: bool = True,
    copy: bool = False,
) -> Callable[[], Iterator[Any]]:
    """Return a generator function of a ring's batches, for `tf.data.Dataset.from_generator`.

    The elements lie in the ring's own memory, and their slots are recycled when TensorFlow has released them. `dataset`
    does the same at a lower cost: it needs no Python for a batch, recycles slots immediately, and ends at once when its
    iterator is deleted. Use this function if a program has to call ``from_generator`` itself.

    The data ends when the ring is finished and drained. All iterations read one stream: a second iteration continues
    with the records that follow, and two iterations at a time share the records.

    Parameters
    ----------
    ring : Ring
        An owned or attached ring. Close it after the last use of the dataset. TensorFlow keeps the returned function,
        and so the ring, until the process ends.
    batch_size : int
        Maximum number of rows of an element. The ring needs slots for two batches, because a loop still holds one while
        it asks for the next. Then the feed never waits for ever, regardless of the size of a ``.prefetch``. To keep
        producers busy, use ``(prefetch + 2) * batch_size`` slots or more.
    structure : nest of str, optional
        As for `dataset`; give the same structure to `element_spec`.
    min_rows, linger, timeout, drop_remainder
        As for `dataset`.
    cut : bool
        Cut padded fields, whose samples do not fill a multiple of 64 bytes, to their shape, which copies them. False
        yields them without a copy, as [rows, stride in elements], for `cut_padding` in the model.
    copy : bool
        Elements are copies, and their slots are free at once. Use it for steps that hold many elements (``.shuffle``,
        ``.cache``). The ring then needs slots for only one batch.

    Returns
    -------
    callable
        Each call begins an iteration over nests of NumPy arrays, which `element_spec` describes.

    Raises
    ------
    ValueError, TypeError
        An option does not fit the ring; the message names it.

    Notes
    -----
    Errors leave the iteration as `tf.errors.UnknownError`, whose message names the error of RingFeed: RingEmpty (no
    record within `timeout`), RingClosed, ProducerFailed. For Ctrl-C and for a ring whose every slot is held, see
    `dataset`.

    Compared with `dataset`, a generator has these limits. The slots of a tensor that dies inside a graph or in a
    ``.prefetch`` are free a little later, at the latest with the next element. Each element waits for Python's global
    interpreter lock. Elements that were taken ahead by a deleted iterator are lost. TensorFlow adds a prefetch to a
    ``from_generator``, which may take an element that no step asked for; these options prevent it::

        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.inject_prefetch = False
        dataset = dataset.with_options(options)

    Deleting a Python iterator (``iter(dataset)``, Keras) ends the generator's wait, unless other threads were inside
    TensorFlow when the iterator was asked for its first element. In that case, and if a loop in a graph is left early,
    a waiting prefetch ends with the next record, the ring's end or `timeout`.

    Examples
    --------
    >>> dataset = tf.data.Dataset.from_generator(
    ...     ringfeed.tf.generator(ring, 64), output_signature=ringfeed.tf.element_spec(ring)
    ... )
    """
    element = _element(ring, structure)
    options = FeedOptions.of(ring, batch_size, min_rows, linger, timeout, 0, drop_remainder, copy)
    if not copy and 2 * batch_size > ring.slots:
        raise ValueError(
            f"batch_size {batch_size}: ring {ring.name!r} has {ring.slots} slots, and a generator needs two batches of "
            f"them, because TensorFlow holds one while it asks for the next. Create it with "
            f"slots={3 * batch_size}, ask for batches of up to {ring.slots // 2} rows, or give copy=True."
            if ring.slots > 1
            else f"ring {ring.name!r} has one slot, and a generator needs two batches of slots, because TensorFlow "
            f"holds one while it asks for the next. Create it with slots={3 * batch_size}, or give copy=True."
        )
    return GeneratorSource(ring, element, options, cut=cut, keep=ring)


def element_spec(
    ring: Ring, batch_size: int | None = None, *, structure: Any = None, drop_remainder: bool = False, cut: bool = True
) -> Any:
    """Return the `output_signature` for a `tf.data.Dataset.from_generator` over `generator`.

    Parameters
    ----------
    ring : Ring
        The ring that was given to `generator`.
    batch_size : int, optional
        Number of rows of every element, with `drop_remainder`. Without both, the length of the first axis is open.
    structure, drop_remainder, cut
        As given to `generator`.

    Returns
    -------
    nest of tf.TensorSpec
        Specs in `structure`, each of shape [rows, *field shape] and the field's dtype. With ``cut=False`` a padded
        field has the shape [rows, stride in elements].

    Raises
    ------
    ValueError, TypeError
        An option does not fit the ring; the message names it.
    """
    element = _element(ring, structure)
    exact = None
    if batch_size is not None:
        exact = FeedOptions.of(ring, batch_size, 1, 0.0, None, 0, drop_remainder, copy=True).exact
    return element.nest(element.specs(exact, cut=cut))


def _element(ring: Ring, structure: Any) -> Element:
    if not isinstance(ring, Ring):
        raise TypeError(f"ring {ring!r:.80}: give a ringfeed.Ring. Ring.attach(name) opens one that exists.")
    refuse_checkpoints()
    return Element.of(ring.spec, lists_to_tuples(structure), ring.name)
