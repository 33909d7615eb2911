"""DLPack: copies that the exporter makes, and the views of a claim that has ended."""

import ctypes
import gc
import threading

import numpy as np
import pytest

import ringfeed
from ringfeed.record_spec import as_dtype
from support import DTYPES, states

pytestmark = pytest.mark.usefixtures("quick_collection")

READ_ONLY, IS_COPIED = 1, 2
numpy_knows_versions = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy before 2.1 takes no versioned capsules"
)
FIELDS = {"x": ((5, 3), "float32"), "y": ((), "int64"), "z": ((16,), "uint8")}


class _Head(ctypes.Structure):
    """The start of a DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
    ]


def flags(capsule):
    """Return the flags of a capsule that no consumer has taken over."""
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return _Head.from_address(pointer_of(capsule, b"dltensor_versioned")).flags


class Capsule:
    """Wraps an existing capsule for a library that expects an object with ``__dlpack__``."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **options):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)


def from_dlpack_copying(name):
    """Return a library's `from_dlpack`; skip the test if it cannot request a copy."""
    library = pytest.importorskip(name)
    try:
        library.from_dlpack(np.zeros(1), copy=True)
    except TypeError:
        pytest.skip("this version cannot request a copy")
    return lambda view: library.from_dlpack(view, copy=True)


@pytest.fixture
def filled(make_ring):
    ring = make_ring(FIELDS, slots=64)
    for n in range(4):
        ring.put({"x": np.full((5, 3), n, np.float32), "y": n, "z": np.full(16, n, np.uint8)})
    return ring, ring.take(4, min_rows=4)


# ---- Copies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_library_gets_a_copy_that_holds_no_slot_and_can_be_written(filled, library, field):
    take = from_dlpack_copying(library)
    ring, batch = filled
    expected = batch[field].tolist()
    copy = take(batch.dlpack(field))
    assert np.asarray(copy).tolist() == expected
    copy[...] = 9
    assert batch[field].tolist() == expected
    assert batch.release() is True
    assert states(ring) == {"free": ring.slots}
    ring.put({"x": np.zeros((5, 3), np.float32), "y": 0, "z": np.zeros(16, np.uint8)})
    assert (np.asarray(copy) == 9).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_copied(make_ring, dtype):
    torch = pytest.importorskip("torch")
    ring = make_ring({"x": ((7,), dtype)}, slots=1)
    sample = (np.arange(7) % 2).astype(as_dtype(dtype))
    ring.put({"x": sample})
    batch = ring.take(1)
    copy = torch.from_dlpack(Capsule(batch.__dlpack__(max_version=(1, 0), copy=True)))
    batch.release()
    assert copy.view(torch.uint8).numpy().tobytes() == sample.tobytes()


@pytest.mark.parametrize("version", [(1, 0), (1, 1), (2, 0), [1, 0]])
def test_a_versioned_copy_says_that_it_is_one(filled, version):
    _, batch = filled
    assert flags(batch.dlpack("x").__dlpack__(max_version=version, copy=True)) == IS_COPIED
    for copy in (None, False):
        assert flags(batch.dlpack("x").__dlpack__(max_version=version, copy=copy)) == 0


@numpy_knows_versions
def test_a_capsule_of_a_copy_holds_no_slot_in_either_form(filled):
    ring, batch = filled
    capsules = [batch.dlpack("x").__dlpack__(copy=True, max_version=version) for version in (None, (1, 0))]
    batch.release()
    assert states(ring) == {"free": ring.slots}
    assert [np.from_dlpack(Capsule(capsule))[:, 0, 0].tolist() for capsule in capsules] == [[0, 1, 2, 3]] * 2


@numpy_knows_versions
def test_a_copy_with_the_padding_is_dense_as_the_view_is(filled):
    _, batch = filled
    for view in (batch.dlpack("x", padded=True), batch.dlpack("x")):
        copy = np.from_dlpack(Capsule(view.__dlpack__(copy=True, max_version=(1, 0))))
        assert copy.flags["C_CONTIGUOUS"]
        assert copy.ctypes.data % 64 == 0
        assert np.array_equal(copy, np.from_dlpack(view))


def test_a_copy_over_the_rings_end(ring):
    for number in range(8):
        ring.put({"x": np.full(512, number)})
    ring.take(6).release()
    for number in range(8, 12):
        ring.put({"x": np.full(512, number)})
    with ring.take(6, min_rows=6) as batch:
        copy = np.from_dlpack(Capsule(batch.__dlpack__(copy=True)))
    assert copy[:, 0].tolist() == copy[:, -1].tolist() == [6, 7, 8, 9, 10, 11]


@numpy_knows_versions
def test_a_copy_of_a_claim_is_what_was_written_so_far(ring):
    with ring.claim(rows=2) as slots:
        slots["x"] = 1
        copy = np.from_dlpack(Capsule(slots.__dlpack__(copy=True, max_version=(1, 0))))
        slots["x"] = 2
    assert (copy == 1).all()
    assert copy.flags.writeable
    assert states(ring) == {"free": 6, "ready": 2}, "a copy pins no slot"


def test_a_large_copy_lets_other_threads_run_and_is_right(make_ring):
    ring = make_ring({"x": ((1 << 20,), "uint8")}, slots=4)
    ring.put({"x": np.arange(1 << 20).astype(np.uint8)})
    batch = ring.take(1)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(np.from_dlpack(Capsule(batch.__dlpack__(copy=True)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(copy, batch["x"]) for copy in found)
    assert len({copy.ctypes.data for copy in found}) == 4


# ---- Claims that have ended --------------------------------------------------------------------------


def end(slot, how):
    slot.publish() if how == "published" else slot.discard()


@pytest.mark.parametrize("how", ["published", "discarded"])
@pytest.mark.parametrize("rows", [None, 2])
def test_a_view_got_before_the_end_of_a_claim_is_read_only_after_it(make_ring, how, rows):
    ring = make_ring(FIELDS)
    slot = ring.claim(rows)
    views = [slot.dlpack("x"), slot.dlpack("x", padded=True), slot.dlpack("y")]
    assert [flags(view.__dlpack__(max_version=(1, 0))) for view in views] == [0, 0, 0]
    end(slot, how)
    for view in views:
        assert flags(view.__dlpack__(max_version=(1, 0))) == READ_ONLY
        with pytest.raises(BufferError, match=r"the claim has ended.*max_version=\(1, 0\), or copy=True"):
            view.__dlpack__()
        with pytest.raises(BufferError):
            view.__dlpack__(max_version=(0, 8))
        assert flags(view.__dlpack__(max_version=(1, 0), copy=True)) == IS_COPIED
        view.__dlpack__(copy=True)


def test_numpy_cannot_write_through_a_view_of_what_is_published(ring):
    slot = ring.claim()
    slot["x"] = 1
    view = slot.dlpack("x")
    slot.publish()
    try:
        array = np.from_dlpack(view)
    except BufferError:
        pytest.skip("this NumPy does not support DLPack 1.0, and the export was refused")
    assert not array.flags.writeable
    assert (array == 1).all()
    del array, view
    gc.collect()
    ring.take(1).release()
    assert states(ring) == {"free": 8}


@numpy_knows_versions
@pytest.mark.parametrize("how", ["published", "discarded"])
def test_capsules_that_were_not_consumed_before_the_end_cannot_be_written_through_after_it(ring, how):
    slot = ring.claim()
    slot["x"] = 1
    versioned = [slot.__dlpack__(max_version=(1, 0)) for _ in range(40)]
    plain = [slot.__dlpack__() for _ in range(40)]
    end(slot, how)
    assert [flags(capsule) for capsule in versioned] == [READ_ONLY] * 40
    for capsule in plain:
        assert '"dltensor"' not in repr(capsule)
        with pytest.raises(Exception, match=r"(?i)capsule|dltensor|once|consumed|invalid"):
            np.from_dlpack(Capsule(capsule))
    assert not np.from_dlpack(Capsule(versioned.pop())).flags.writeable
    del versioned, capsule
    gc.collect()
    assert states(ring) == {"free": 7, "ready" if how == "published" else "claimed": 1}
    del plain
    gc.collect()
    if how == "published":
        ring.take(1).release()
    assert states(ring) == {"free": 8}


def test_capsules_that_are_dropped_or_taken_over_pin_nothing_for_longer_than_their_tensors(ring):
    slot = ring.claim()
    slot["x"] = 3
    for _ in range(100):
        slot.__dlpack__(max_version=(1, 0))
        slot.__dlpack__()
        np.from_dlpack(slot)
    kept = np.from_dlpack(slot)
    slot.publish()
    ring.take(1).release()
    assert states(ring) == {"free": 7, "kept": 1}
    assert (kept == 3).all()
    del kept
    gc.collect()
    assert states(ring) == {"free": 8}


def test_a_claim_that_is_dropped_with_its_capsules_comes_back(ring):
    slot = ring.claim()
    capsules = [slot.__dlpack__(), slot.__dlpack__(max_version=(1, 0))]
    del slot
    assert states(ring) == {"free": 7, "claimed": 1}
    del capsules
    gc.collect()
    assert states(ring) == {"free": 8}


def test_a_taker_may_write_into_a_batch_as_into_its_arrays(filled):
    _, batch = filled
    view = batch.dlpack("x")
    assert batch["x"].flags.writeable
    batch.release()
    assert flags(view.__dlpack__(max_version=(1, 0))) == 0
    assert '"dltensor"' in repr(view.__dlpack__())


def test_an_ended_claim_and_a_released_batch_export_nothing_by_themselves(ring):
    slot = ring.claim()
    slot.publish()
    batch = ring.take(1)
    batch.release()
    for ended in (slot, batch):
        for options in ({}, {"copy": True}, {"max_version": (1, 0)}):
            with pytest.raises(ringfeed.RingFeedError, match=r"was published|was released"):
                ended.__dlpack__(**options)
