from __future__ import annotations

import os
import pathlib
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ringfeed.errors import RingClosed
from ringfeed.workers.items import EncodedItem, SpillFile, read_item


def through_memory(item: object) -> object:
    encoded = EncodedItem(item)
    message = np.zeros(encoded.message_bytes, np.uint8)
    encoded.write(message)
    return read_item(message)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(), lambda inner: st.lists(inner) | st.tuples(inner, inner)
    )
)
def test_plain_items_arrive_unchanged(item: object) -> None:
    assert through_memory(item) == item


NATIVE_DTYPES = npst.integer_dtypes(endianness="=") | npst.floating_dtypes(endianness="=") | npst.boolean_dtypes()


@given(npst.arrays(NATIVE_DTYPES, npst.array_shapes(min_dims=0)))
def test_arrays_arrive_unchanged(array: np.ndarray) -> None:
    arrived = through_memory(array)
    assert arrived.dtype == array.dtype
    np.testing.assert_array_equal(arrived, array)


@pytest.mark.parametrize("nest", [lambda array: array, lambda array: {"a": [array], "b": (array, 3)}])
def test_the_bytes_of_arrays_are_not_in_the_pickle(nest) -> None:
    array = np.arange(1 << 18, dtype=np.float32)
    encoded = EncodedItem(nest(array))
    assert len(encoded._parts[0]) < 2000


def test_an_array_with_strides_is_not_pickled_either() -> None:
    array = np.arange(1 << 16).reshape(256, 256)[::2, ::3]
    assert len(EncodedItem(array)._parts[0]) < 2000
    np.testing.assert_array_equal(through_memory(array), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.complex64])
@pytest.mark.parametrize("nest", [lambda array: array, lambda array: [array], lambda array: {"a": (array, "x")}])
def test_the_receiver_owns_the_arrays_of_an_item(nest, dtype) -> None:
    array = np.arange(1000).astype(dtype)
    encoded = EncodedItem(nest(array))
    message = np.zeros(encoded.message_bytes, np.uint8)
    encoded.write(message)
    arrived = read_item(message)
    message[:] = 0xFF  # the slot belongs to another item now
    found = arrived
    while not isinstance(found, np.ndarray):
        found = found["a"] if isinstance(found, dict) else found[0]
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable
    assert found.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "item",
    [
        bytearray(b"b" * 5000),
        np.frombuffer(b"r" * 5000, np.uint8),
        np.ma.masked_array(np.arange(600), np.arange(600) % 2 == 0),
        np.arange(1200, dtype=np.float32).reshape(30, 40)[::2, ::2],
        np.zeros(800, [("a", "f4"), ("b", "u1")]),
    ],
    ids=["bytearray", "read-only array", "masked array", "strided array", "structured array"],
)
def test_no_part_of_an_item_refers_to_the_message(item: object) -> None:
    encoded = EncodedItem([item])
    message = np.zeros(encoded.message_bytes, np.uint8)
    encoded.write(message)
    before = pickle.dumps(through_memory([item]), protocol=5)
    [arrived] = read_item(message)
    message[:] = 0xFF
    assert pickle.dumps([arrived], protocol=5) == before


def test_a_masked_array_with_strides_keeps_its_mask() -> None:
    item = np.ma.masked_array(np.arange(60).reshape(6, 10), np.arange(60).reshape(6, 10) % 3 == 0)[::2, ::2]
    arrived = through_memory(item)
    assert isinstance(arrived, np.ma.MaskedArray)
    np.testing.assert_array_equal(np.ma.getmaskarray(arrived), np.ma.getmaskarray(item))


def test_a_function_and_a_local_class_can_be_sent() -> None:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    # As in a worker: without this module's namespace.
    assert through_memory([lambda x: x + 1])[0](1) == 2
    assert through_memory(Local(3)).value == 3


def test_a_path_is_pickled_plainly() -> None:
    assert through_memory(pathlib.Path("a/b.png")) == pathlib.Path("a/b.png")


def test_an_item_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        EncodedItem(threading.Lock())


def test_a_large_item_lies_in_the_spill_file_until_it_is_removed() -> None:
    def held_bytes() -> int:
        return os.fstat(file.descriptor).st_blocks * 512

    arrays = [np.random.default_rng(n).integers(0, 255, 1 << 20, dtype=np.uint8) for n in range(3)]
    file = SpillFile()
    spilled = [file.add(EncodedItem(array)) for array in arrays]
    messages = [np.zeros(4096, np.uint8) for _ in spilled]
    for item, message in zip(spilled, messages, strict=True):
        item.write(message)
    kept = read_item(messages[1], file.descriptor)
    assert kept.flags.writeable
    full = held_bytes()
    assert full >= 3 << 20
    for array, message in zip(arrays, messages, strict=True):
        np.testing.assert_array_equal(read_item(message, file.descriptor), array)
    spilled[1].remove()
    spilled[1].remove()
    assert held_bytes() <= full - (1 << 20)
    with pytest.raises(LookupError, match="it is done"):
        read_item(messages[1], file.descriptor)
    np.testing.assert_array_equal(kept, arrays[1])  # a reader that has its arrays already keeps them
    again = file.add(EncodedItem(arrays[1]))
    with pytest.raises(LookupError, match="it is done"):  # no other item is stored at the old place
        read_item(messages[1], file.descriptor)
    for item, place in ((spilled[0], 0), (spilled[2], 2)):
        np.testing.assert_array_equal(read_item(messages[place], file.descriptor), arrays[place])
        item.remove()
    again.remove()
    assert held_bytes() == 0
    file.close()
    file.close()
    with pytest.raises(RingClosed):
        file.add(EncodedItem(arrays[0]))
