"""Batches for `tf.data.Dataset.from_generator`: NumPy arrays over the ring's own memory, which TensorFlow borrows.

It may not know of the native op, nor which steps stand behind the dataset. How it works:

TensorFlow takes an array over without a copy if it is contiguous, of the right dtype and starts on 64 bytes. Runs of
slots do. The array keeps the slots' lease, so the slots come back when TensorFlow lets go of the array. It does that
in two moves. A tensor that dies in one of TensorFlow's threads lays its array on a list. The list is emptied after the
next call into Python, and whenever an eager tensor dies. A generator that only waited for a record, while the arrays
of the last slots lay on that list, would wait for ever. So the generator makes and drops an eager tensor before it
takes, and again and again while every slot is held (`_Source._wait_for_slots`).
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from ..._core import Batch
from ...ctrl_c import ctrl_c_raises
from ...errors import RingClosed, RingEmpty, RingFinished
from ...ring import Ring
from ...stall import minds_stalls
from ..tensors.elements import Element
from ..tensors.structure import lists_to_tuples
from ..tensors.zero_copy import aligned_copy
from . import waiting
from .checkpoints import refuse_checkpoints
from .dataset_steps import Consumer
from .options import FeedOptions
from .partial_batch import PartialBatch, complete_first, zeros
from .waiting import Wait, inside_python, is_ending, main_thread_asks_for_an_element

# Between two looks at a ring whose every slot is held: in all about a slice of the ring's own waits.
_PAUSES_SECONDS = (0.0002, 0.0005, 0.001, 0.002, *(0.005,) * 9)


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

    The elements are the ring's own memory, and their slots are recycled when TensorFlow has let go of them. `dataset`
    does the same with less: it needs no Python for a batch, recycles slots at the very moment, and ends at once when
    its iterator is dropped. Use this where a program has to call ``from_generator`` itself.

    The data ends when the ring is finished and drained. It is the same stream however often it is iterated: a second
    iteration goes on with the records that come then, and two at a time share them.

    Parameters
    ----------
    ring : Ring
        Owned or attached. Close it after the last use of the dataset: TensorFlow keeps the function that this returns,
        and so the ring, until the process ends.
    batch_size : int
        Most rows in an element. The ring needs slots for two such batches: a loop still holds one while it asks for
        the next. With so many, no number of batches in a ``.prefetch`` makes it wait for ever. Producers are kept busy
        by ``(prefetch + 2) * batch_size`` slots or more.
    structure : nest of str, optional
        As for `dataset`, and the same as for `element_spec`.
    min_rows, linger, timeout, drop_remainder
        As for `dataset`.
    cut : bool
        Cut padded fields (whose samples do not fill a multiple of 64 bytes) to their shape, which copies them. False
        hands them over without a copy, as [rows, stride in elements], for a `cut_padding` in the model.
    copy : bool
        Elements are copies, and their slots are free at once: for steps that hold many elements (``.shuffle``,
        ``.cache``). Then the ring needs slots for one batch only.

    Returns
    -------
    callable
        Each call begins an iteration over nests of NumPy arrays, as `element_spec` describes them.

    Raises
    ------
    ValueError, TypeError
        Something does not fit the ring; the message says what.

    Notes
    -----
    Errors come out of the iteration as `tf.errors.UnknownError`, whose message names ours: RingEmpty (nothing came
    within `timeout`), RingClosed, ProducerFailed. Ctrl-C and a ring whose every slot is held are as with `dataset`.

    What `dataset` promises and this way cannot: slots of a tensor that dies inside a graph or in a ``.prefetch`` come
    back a little later, at the latest with the next element that is asked for. Each element waits for the interpreter's
    lock. Elements that were taken ahead of an iterator that is dropped are lost. TensorFlow adds a prefetch of its own
    to a ``from_generator``, so an element may be taken that no one asked for; this prevents it::

        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.inject_prefetch = False
        dataset = dataset.with_options(options)

    An iterator of Python's (``iter(dataset)``, Keras) that is dropped while the generator waits ends the wait, unless
    other threads were inside TensorFlow when it was asked for its first element. Then, and where a loop in a graph is
    left early, a prefetch that waits ends with the next record, the ring's end or `timeout`.

    Examples
    --------
    >>> dataset = tf.data.Dataset.from_generator(
    ...     ringfeed.tf.generator(ring, 64), output_signature=ringfeed.tf.element_spec(ring)
    ... )
    """
    element = _element(ring, structure)
    plan = FeedOptions.of(ring, batch_size, min_rows, linger, timeout, 0, drop_remainder, copy)
    if not copy and 2 * batch_size > ring.slots:
        raise ValueError(
            f"batch_size {batch_size}: ring {ring.name!r} has {ring.slots} slots, and a generator needs two batches of "
            f"them, because TensorFlow holds one while it asks for the next. Create it with "
            f"slots={3 * batch_size}, ask for batches of up to {ring.slots // 2} rows, or give copy=True."
            if ring.slots > 1
            else f"ring {ring.name!r} has one slot, and a generator needs two batches of slots, because TensorFlow "
            f"holds one while it asks for the next. Create it with slots={3 * batch_size}, or give copy=True."
        )
    return Source(ring, element, plan, cut=cut, keep=ring)


def element_spec(
    ring: Ring, batch_size: int | None = None, *, structure: Any = None, drop_remainder: bool = False, cut: bool = True
) -> Any:
    """Return what the elements of `generator` look like: the `output_signature` of `tf.data.Dataset.from_generator`.

    Parameters
    ----------
    ring : Ring
    batch_size : int, optional
        Rows of every element, with `drop_remainder`. Without both, the first axis is free.
    structure, drop_remainder, cut
        As given to `generator`.

    Returns
    -------
    nest of tf.TensorSpec
        In `structure`; each of shape [rows, *field shape] and the field's dtype. With ``cut=False`` a padded field has
        the shape [rows, stride in elements].

    Raises
    ------
    ValueError, TypeError
        Something does not fit the ring; the message says what.
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


class _Interrupted(Exception):
    """Ctrl-C came while a feed waited."""


class Source:
    """Takes batches for all iterators of one dataset, in threads of TensorFlow's.

    Its attributes are read and replaced whole, so that threads do not need a lock; but for what is said below.

    Parameters
    ----------
    ring : Ring
        Not kept alive.
    element : Element
    plan : FeedOptions
    cut : bool
        As for `generator`.
    in_turns : bool
        An iteration ends when it was idle for `waiting.ROUND_SECONDS`, and `turns` says whether another may begin.
    keep : Ring, optional
        To keep alive; the attribute `ring`.
    """

    def __init__(
        self,
        ring: Ring,
        element: Element,
        plan: FeedOptions,
        *,
        cut: bool,
        in_turns: bool = False,
        keep: Ring | None = None,
    ) -> None:
        self._ring = weakref.ref(ring)
        self.ring = keep
        self._name = ring.name
        self._element = element
        self._plan = plan
        self._cut = cut
        self._in_turns = in_turns
        self._ended = False
        self._stops = False  # once
        self._wait: Wait | None = None  # while no batch comes, over all turns
        self._gathered: list[PartialBatch] = []
        self._merging = threading.Lock()

    def __call__(self) -> Iterator[Any]:
        """Begin an iteration."""
        return _Iteration(self, None if self._in_turns else Consumer(self))

    def turns(self) -> Iterator[bool]:
        """Begin an iteration over turns: True for each, until there are no more elements."""
        return _Turns(self)

    def turn(self) -> bool:
        """Begin a turn; StopIteration says that there are no more elements."""
        with inside_python():
            if self._ended or self._stops or is_ending():
                self._stops = False
                raise StopIteration
            return True

    def next_element(self, consumer: Consumer | None) -> Any:
        """Return the next element; StopIteration ends the iteration."""
        with inside_python():
            if is_ending() or (consumer is not None and consumer.is_gone()):
                raise StopIteration
            ring = self._ring()
            if ring is None:
                raise RingClosed(
                    f"ring {self._name!r}: it was dropped before its dataset. Keep it until the last iteration."
                )
            try:
                exact = self._plan.exact
                arrays = self._next_of(ring, consumer) if exact is None else self._next_whole(ring, exact, consumer)
            except RingFinished:
                self._ended = True
                raise StopIteration from None
            except _Interrupted:
                arrays = self._bring_back_to_python()
            return self._element.nest(dict(zip(self._element.fields, arrays, strict=True)))

    def _bring_back_to_python(self) -> list[npt.NDArray[Any]]:
        """End the wait so that the main thread runs its handler of Ctrl-C, which it does as soon as it can.

        An error would not do: TensorFlow makes its exception with Python code, in which the handler then runs
        already, and what comes out is a RuntimeError ("... REPLACED BY KeyboardInterrupt"). So
        ``next(iterator)`` gets an element that no one will see, and a graph gets the end of the data.
        """
        if not ctrl_c_raises():
            raise InterruptedError(f"ring {self._name!r}: SIGINT ended a feed's wait for records.")
        if main_thread_asks_for_an_element():
            return zeros(self._element, self._plan.exact or 0, self._cut)
        self._stops = True
        raise StopIteration

    def _next_of(self, ring: Ring, consumer: Consumer | None) -> list[npt.NDArray[Any]]:
        with self._take(ring, self._plan.most, self._plan.least, consumer) as batch:
            return self._hand_over(batch)

    def _hand_over(self, batch: Batch) -> list[npt.NDArray[Any]]:
        arrays = self._element.arrays(batch, cut=self._cut)
        # Of an array with gaps TensorFlow and NumPy would make two copies.
        return [aligned_copy(each) if self._plan.copy or not each.flags.c_contiguous else each for each in arrays]

    def _next_whole(self, ring: Ring, rows: int, consumer: Consumer | None) -> list[npt.NDArray[Any]]:
        """Return exactly `rows` rows: a batch as it is, or, where records lie apart, copies of several."""
        with self._merging:
            gathered = self._gathered.pop() if self._gathered else PartialBatch(self._element, rows, self._cut)
        try:
            while gathered.rows < rows:
                most = min(self._plan.most, rows - gathered.rows)
                with self._take(ring, most, most, consumer) as batch:
                    if len(batch) == rows:
                        return self._hand_over(batch)
                    gathered.add(self._element.arrays(batch, cut=self._cut))
        except BaseException as end:
            # The next iteration goes on with it. At the ring's end none may: the last of several has what all gathered.
            with self._merging:
                self._gathered.append(gathered)
                whole = complete_first(self._gathered) if isinstance(end, RingFinished) else None
            if whole is None:
                raise
            gathered = whole
        return gathered.arrays

    def _take(self, ring: Ring, most: int, least: int, consumer: Consumer | None) -> Batch:
        """Take a batch; StopIteration when the turn is over before one came."""
        timeout = self._plan.timeout
        wait = self._wait
        if wait is None or wait.was_abandoned():
            wait = self._wait = Wait()
        turn_ends = time.monotonic() + waiting.ROUND_SECONDS

        @minds_stalls
        def is_idle() -> bool:
            if is_ending() or (consumer is not None and consumer.is_gone()):
                return True
            if wait.is_interrupted():
                raise _Interrupted
            stats = _wait_for_slots(ring, wait.seconds_left(timeout))
            wait.check_stall(ring, stats)
            # Where enough is ready, the ring waits for more of it, as `linger` says.
            return self._in_turns and stats["ready"] < least and time.monotonic() >= turn_ends

        let_go()
        try:
            if timeout != 0 and ring.ready < least:
                _wait_for_slots(ring, wait.seconds_left(timeout))
            batch = ring.take(
                most,
                min_rows=least,
                timeout=wait.seconds_left(timeout),
                linger=self._plan.linger,
                while_waiting=is_idle,
            )
        except RingEmpty:
            if wait.seconds_left(timeout) != 0:
                wait.pause()
                raise StopIteration from None
            self._wait = None
            raise RingEmpty(
                f"ring {self._name!r}: {ring.stats()['ready']} of {least} records ready after {timeout:g} s; the "
                "producers are slower than the feed, or tensors that are alive hold their slots. Wait longer "
                "(timeout=), add producers, or drop tensors sooner."
            ) from None
        except BaseException:
            self._wait = None
            raise
        self._wait = None
        return batch


class _Iteration:
    """An iteration over elements; it goes on after an error, as the native op does."""

    def __init__(self, source: Source, consumer: Consumer | None) -> None:
        self._source = source
        self._consumer = consumer

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._source.next_element(self._consumer)


class _Turns:
    def __init__(self, source: Source) -> None:
        self._source = source

    def __iter__(self) -> Iterator[bool]:
        return self

    def __next__(self) -> bool:
        return self._source.turn()


def let_go() -> None:
    """Have TensorFlow empty its list of arrays that it has done with, as it does whenever an eager tensor dies."""
    tf.constant(0)  # of this kind it stays on the host, where there is a GPU, too


def _wait_for_slots(ring: Ring, seconds: float | None) -> dict[str, int]:
    """Empty that list again and again while every slot is held, for 50 ms or `seconds`; return what is in the ring."""
    let_go()
    stats = ring.stats()
    until = math.inf if seconds is None else time.monotonic() + seconds
    for pause in _PAUSES_SECONDS:
        if stats["free"] or stats["claimed"] or stats["ready"] or time.monotonic() + pause > until:
            break
        time.sleep(pause)
        let_go()
        stats = ring.stats()
    return stats
