from __future__ import annotations

import pathlib
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ringfeed.items import EncodedItem, SpilledItem, read_item


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
def test_plain_items_arrive_as_they_left(item: object) -> None:
    assert through_memory(item) == item


NATIVE_DTYPES = npst.integer_dtypes(endianness="=") | npst.floating_dtypes(endianness="=") | npst.boolean_dtypes()


@given(npst.arrays(NATIVE_DTYPES, npst.array_shapes(min_dims=0)))
def test_arrays_arrive_as_they_left(array: np.ndarray) -> None:
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


def test_arrays_of_an_item_look_at_the_message_itself() -> None:
    encoded = EncodedItem(np.arange(1000))
    message = np.zeros(encoded.message_bytes, np.uint8)
    encoded.write(message)
    array = read_item(message)
    assert np.shares_memory(array, message)
    assert array.ctypes.data % 64 == message.ctypes.data % 64


def test_a_function_and_a_local_class_travel() -> None:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    # As a worker would: without this module's namespace.
    assert through_memory([lambda x: x + 1])[0](1) == 2
    assert through_memory(Local(3)).value == 3


def test_a_path_is_pickled_plainly() -> None:
    assert through_memory(pathlib.Path("a/b.png")) == pathlib.Path("a/b.png")


def test_what_can_not_be_pickled_says_so() -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        EncodedItem(threading.Lock())


def test_a_large_item_lies_in_a_segment_of_its_own_until_it_is_removed() -> None:
    array = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8)
    spilled = SpilledItem(EncodedItem(array))
    segment = pathlib.Path("/dev/shm" + spilled.name)
    try:
        message = np.zeros(4096, np.uint8)
        spilled.write(message)
        assert segment.stat().st_mode & 0o777 == 0o600
        arrived = read_item(message)
        np.testing.assert_array_equal(arrived, array)
    finally:
        spilled.remove()
    assert not segment.exists()
    spilled.remove()
    np.testing.assert_array_equal(arrived, array)  # whoever reads it goes on
