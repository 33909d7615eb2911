"""Helpers of the feed's tests: numbered records, addresses of tensors, and programs that wait."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import ringfeed
from ringfeed.record_spec import Field
from ringfeed.tf import element_spec, generator
from support import wait_until


def fill(ring: ringfeed.Ring, numbers: Iterable[int]) -> None:
    """Put a record for each number: every field is filled with the number, and the tag is the number."""
    for number in numbers:
        with ring.claim() as slot:
            for name in slot:
                slot[name] = number
            slot.tag = number


def fill_at_once(ring: ringfeed.Ring, numbers: list[int]) -> None:
    """Do the same in one step: a taker that waits sees all records or none."""
    with ring.claim(len(numbers)) as slots:
        for row, number in enumerate(numbers):
            for name in slots:
                slots[name][row] = number
        slots.tags = numbers


def produce(pipe: Any, name: str, count: int) -> None:
    """Put `count` numbers as `fill` does, then finish the ring; runs in a process of its own."""
    with ringfeed.Ring.attach(name) as ring:
        for number in range(count):
            with ring.claim() as slot:
                slot["x"] = number
                slot.tag = number
        ring.finish()


def produce_as_told(pipe: Any, name: str) -> None:
    """Put the number of records in each message, and finish at None; runs in a process of its own."""
    with ringfeed.Ring.attach(name) as ring:
        number = 0
        while (count := pipe.hear()) is not None:
            for _ in range(count):
                with ring.claim() as slot:
                    slot["x"] = number
                number += 1
            pipe.tell("put")
        ring.finish()


def produce_pictures(pipe: Any, name: str, count: int) -> None:
    """Put `count` random pictures with labels, equal in each run, then finish; runs in a process of its own."""
    random = np.random.default_rng(3)
    images, labels = random.random((count, 8, 8), np.float32), random.integers(0, 3, count)
    with ringfeed.Ring.attach(name) as ring:
        for image, label in zip(images, labels, strict=True):
            ring.put({"image": image, "label": label})
        ring.finish()


def random_samples(field: Field, count: int, random: np.random.Generator) -> np.ndarray:
    """Return `count` samples of a field made of random bits, which may be NaN."""
    size = count * int(np.prod(field.shape, dtype=int)) * field.dtype.itemsize
    if field.dtype == np.bool_:
        return random.integers(0, 2, size).astype(np.bool_).reshape(count, *field.shape)
    return random.integers(0, 256, size, np.uint8).view(field.dtype).reshape(count, *field.shape)


def same_bits(actual: Any, expected: Any) -> bool:
    """Tell whether two arrays or tensors have the same bits, including NaN."""
    actual, expected = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    return (actual.shape, actual.dtype) == (expected.shape, expected.dtype) and actual.tobytes() == expected.tobytes()


def first_numbers(tensor: Any) -> list[int]:
    """Return the number of each row, and check that all values of a row are equal."""
    rows = tensor.numpy().reshape(len(tensor), -1)
    assert (rows == rows[:, :1]).all(), "a torn record"
    return [int(number) for number in rows[:, 0]]


def address(tensor: Any) -> int:
    """Return the address of an eager tensor's memory."""
    if tensor.dtype == tf.bfloat16:
        tensor = tf.bitcast(tensor, tf.uint16)  # a bitcast keeps the memory
    return int(np.asarray(memoryview(tensor)).__array_interface__["data"][0])


def address_in_graph(tensor: Any) -> Any:
    """Return the address of a tensor's memory in a graph, as int64."""
    found = tf.py_function(lambda eager: np.int64(address(eager)), [tensor], tf.int64)
    return tf.ensure_shape(found, ())


def slot_of(ring: ringfeed.Ring, name: str, where: int) -> int | None:
    """Return the slot of a field that begins at an address; None if the address is not in the ring's memory."""
    field = ring.spec[name]
    offset = where - ring._region_address(name)
    # A field's region is mapped twice in a row, so a batch may pass its end.
    if not 0 <= offset < 2 * ring.slots * field.stride_bytes or offset % field.stride_bytes:
        return None
    return offset // field.stride_bytes % ring.slots


def drain(dataset: Any) -> Iterator[Any]:
    """Iterate without holding an element during the wait for the next, unlike a `for` loop."""
    iterator = iter(dataset)
    while True:
        try:
            element = next(iterator)
        except StopIteration:
            return
        yield element
        del element


def from_generator(ring: ringfeed.Ring, batch_size: int, *, structure: Any = None, **options: Any) -> tf.data.Dataset:
    """Return a dataset by `from_generator`, written like a user's program."""
    shape = {name: options[name] for name in ("drop_remainder", "cut") if name in options}
    return tf.data.Dataset.from_generator(
        generator(ring, batch_size, structure=structure, **options),
        output_signature=element_spec(ring, batch_size, structure=structure, **shape),
    )


def as_asked(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset without the prefetch that TensorFlow would add."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)


@tf.function
def read_in_graph(elements: Any) -> Any:
    """Return the first number of every row, in a loop inside the graph."""
    found = tf.zeros([0], tf.int64)
    for element in elements:
        found = tf.concat([found, element[:, 0]], 0)
    return found


def read_eagerly(elements: Any) -> Any:
    """Return the first number of every row, in a loop that holds an element while it asks for the next."""
    found: list[int] = []
    for element in elements:
        found += first_numbers(element)
    return tf.constant(found, tf.int64)


# ---- Ctrl-C ------------------------------------------------------------------------------------------

WAITS = {
    "a loop": "for element in elements: pass",
    "a loop with a prefetch": "for element in elements.prefetch(2): pass",
    "a loop in a graph": """
        @tf.function
        def read(elements):
            for element in elements:
                tf.print(element, output_stream=sys.stderr)
        read(elements)
    """,
    "a model": """
        import keras
        keras.Sequential([keras.Input((512,)), keras.layers.Dense(1)]).predict(elements, verbose=0)
    """,
}
"""Programs that wait for a ring's elements in the main thread."""


def end_a_wait_by_ctrl_c(ring: ringfeed.Ring, file: Path, elements: str, wait: str) -> None:
    """Run a program that makes `elements` over the ring and waits; Ctrl-C ends the wait, then the program ends.

    The program is in a file, because autograph must read the source of a loop in a graph.
    """
    file.write_text(f"""
import sys
import tensorflow as tf
import ringfeed

ring = ringfeed.Ring.attach({ring.name!r})
{textwrap.dedent(elements)}
try:
{textwrap.indent(textwrap.dedent(wait).strip(), "    ")}
except KeyboardInterrupt:
    print("interrupted")
except RuntimeError as error:  # Keras turns the KeyboardInterrupt into a RuntimeError
    print("interrupted" if "KeyboardInterrupt" in str(error) and {"keras" in wait} else error)
""")
    waiter = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, text=True)
    try:
        waited = ring.stats()["take_wait_ns"]
        wait_until(lambda: ring.stats()["take_wait_ns"] > waited or waiter.poll() is not None)
        waiter.send_signal(signal.SIGINT)
        assert waiter.communicate() == ("interrupted\n", None)
        assert waiter.returncode == 0
    finally:
        waiter.kill()
        waiter.wait()
