"""Rings without a name: anonymous memory that other processes open by its descriptor."""

import copy
import gc
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

import ringfeed
from ringfeed import segment
from support import SHARED_MEMORY, numbers, record, states, take_all

FIELDS = {"x": ((512,), "int64")}


@pytest.fixture
def nameless():
    with ringfeed.Ring.create_nameless(FIELDS, slots=8) as ring:
        yield ring


def memory_in_shm():
    status = os.statvfs(SHARED_MEMORY)
    return status.f_bfree * status.f_frsize


@pytest.mark.usefixtures("quick_collection")
def test_a_nameless_ring_works_and_leaves_no_entry_in_shared_memory():
    before = sorted(os.listdir(SHARED_MEMORY))
    with ringfeed.Ring.create_nameless(FIELDS, slots=8) as ring:
        assert sorted(os.listdir(SHARED_MEMORY)) == before
        assert ring.is_nameless
        assert ring.slots == 8
        for lap in range(20):
            ring.put(record(lap))
            with ring.claim(rows=3) as slots:
                slots["x"] = lap
            assert numbers(ring.take(max_rows=4, min_rows=4)) == [lap] * 4
            gc.collect()
        assert states(ring) == {"free": 8}
        assert not [info for info in ringfeed.list_segments() if info.name == ring.name]
    assert ring.closed


def test_a_batch_of_a_nameless_ring_is_contiguous_over_its_end(nameless):
    for number in range(6):
        nameless.put(record(number))
    nameless.take(max_rows=6).release()
    for number in range(5):
        nameless.put(record(number))
    with nameless.take(max_rows=5, min_rows=5) as batch:
        assert batch["x"].flags["C_CONTIGUOUS"]
        assert numbers(batch) == [0, 1, 2, 3, 4]


def test_a_nameless_ring_is_opened_by_its_descriptor(nameless):
    other = ringfeed.Ring.attach_descriptor(os.dup(nameless.descriptor), "mine")
    assert other.is_nameless
    assert not other.is_owner
    assert other.spec == nameless.spec
    other.put(record(7))
    assert take_all(nameless) == [7]
    other.close()
    assert not nameless.closed


def test_a_named_ring_is_none(ring):
    assert not ring.is_nameless
    other = ringfeed.Ring.attach_descriptor(os.dup(ring.descriptor), ring.name)
    assert not other.is_nameless
    other.close()


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pickling_a_nameless_ring_says_how_it_travels(nameless, way):
    other = ringfeed.Ring.attach_descriptor(os.dup(nameless.descriptor), "mine")
    for ring in (nameless, other):
        with pytest.raises(TypeError, match=rf"ring '{ring.name}' has no name.*descriptor.*attach_descriptor"):
            way(ring)
    other.close()


def test_unlinking_a_nameless_ring_does_nothing_even_to_a_ring_of_that_name(nameless, ring):
    other = ringfeed.Ring.attach_descriptor(os.dup(nameless.descriptor), ring.name)
    other.unlink()
    other.unlink()
    nameless.unlink()
    assert segment.identity_of(ring.name) == segment.identity(ring.descriptor)
    nameless.put(record(1))
    assert take_all(other) == [1]
    other.close()


def test_the_name_is_for_messages_only():
    with ringfeed.Ring.create_nameless(FIELDS, slots=8, name="cams") as ring:
        assert ring.name == "cams"
        with pytest.raises(ringfeed.RingEmpty, match="ring 'cams'"):
            ring.take(1, timeout=0)
        with pytest.raises(ringfeed.RingNotFound):
            ringfeed.Ring.attach("cams")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "a/b"}, ValueError, "ring name 'a/b'"),
        ({"slots": 0}, ValueError, "slots 0"),
        ({"slots": 1.5}, TypeError, r"slots 1\.5"),
        ({"participants": 5000}, ValueError, "participants 5000"),
        ({"fields": {}}, ValueError, "1 to 64 fields"),
        ({"fields": {"x": ((), "object")}}, TypeError, "dtype 'object' cannot be held"),
        ({"numa_node": -1}, ValueError, "numa_node -1"),
        ({"priorities": 2}, TypeError, "priorities"),
    ],
)
def test_arguments_are_checked_as_for_a_named_ring(options, error, message):
    with pytest.raises(error, match=message):
        ringfeed.Ring.create_nameless(**{"fields": FIELDS, **options})


def test_a_nameless_ring_takes_no_space_of_shared_memory():
    if not os.path.ismount(SHARED_MEMORY):
        pytest.skip("/dev/shm is not a separate file system")
    before = memory_in_shm()
    with ringfeed.Ring.create_nameless({"x": ((1 << 20,), "uint8")}, slots=64) as ring:
        assert ring.segment_bytes > 64 << 20
        assert before - memory_in_shm() < 32 << 20, "other processes may allocate some meanwhile"


@pytest.mark.parametrize("sample", [1 << 36, 1 << 40, 1 << 50])
def test_more_than_the_memory_that_there_is_is_refused_before_it_is_tried(sample):
    with pytest.raises(
        ringfeed.NoSpace, match=r"8 slots of \d+ bytes need \d+ bytes of memory, .* has \d+ left.*fewer slots.*--memory"
    ):
        ringfeed.Ring.create_nameless({"x": ((sample,), "uint8")}, slots=8)


def test_the_size_of_a_nameless_ring_cannot_be_changed(nameless):
    size = os.fstat(nameless.descriptor).st_size
    for other in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.truncate(nameless.descriptor, other)
    assert os.fstat(nameless.descriptor).st_mode & 0o777 == 0o600


def test_memory_options_are_asked_for_and_answered():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ringfeed.MemoryOptionWarning)
        ring = ringfeed.Ring.create_nameless(
            {"x": ((1 << 21,), "uint8")}, slots=2, huge_pages=True, lock_memory=True, pin_memory=True
        )
    with ring:
        assert set(ring.memory) == {"huge_pages", "lock_memory", "pin_memory"}
        assert all(answer == "granted" or answer.startswith("refused") for answer in ring.memory.values())
        ring.put({"x": np.full(1 << 21, 3, np.uint8)})
        with ring.take(max_rows=1) as batch:
            assert (batch["x"] == 3).all()


def test_arrays_outlive_a_nameless_ring():
    ring = ringfeed.Ring.create_nameless(FIELDS, slots=8)
    ring.put(record(9))
    kept = ring.take(max_rows=1)["x"]
    ring.close()
    del ring
    gc.collect()
    assert (kept == 9).all()


def test_the_memory_is_freed_with_its_last_participant():
    ring = ringfeed.Ring.create_nameless(FIELDS, slots=8, name="goes")
    is_mapped = lambda: "memfd:ringfeed.goes" in Path("/proc/self/maps").read_text()  # noqa: E731
    array = ring.claim()["x"]
    ring.close()
    del ring
    gc.collect()
    assert is_mapped()
    del array
    gc.collect()
    assert not is_mapped()
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [link for link in links if "memfd:ringfeed.goes" in link]
