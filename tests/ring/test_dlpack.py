"""DLPack: NumPy, TensorFlow, PyTorch and JAX read the ring's own memory, and hold its slots meanwhile."""

import gc
import sys
import threading

import numpy as np
import pytest

import ringfeed
from ringfeed.record_spec import as_dtype
from support import DTYPES, record, states

pytestmark = pytest.mark.usefixtures("quick_collection")


def load(name):
    """Import a library once, and exclude its objects from later garbage collections."""
    loaded = name in sys.modules
    module = pytest.importorskip(name)
    if not loaded:
        gc.freeze()
    return module


def pointer(array):
    return array.__array_interface__["data"][0]


class NumPy:
    """How a library imports a view, and how the tests inspect its tensor."""

    no_dtypes = ("bfloat16",)  # NumPy's own DLPack has no code for this dtype

    def __init__(self):
        self.library = np

    def take(self, view):
        return np.from_dlpack(view)

    def address(self, tensor):
        return pointer(tensor)

    def values(self, tensor):
        return tensor

    def rows(self, tensor):
        return tensor[1:]


class Torch(NumPy):
    no_dtypes = ()

    def __init__(self):
        self.library = load("torch")

    def take(self, view):
        return self.library.from_dlpack(view)

    def address(self, tensor):
        return tensor.data_ptr()

    def values(self, tensor):
        if tensor.dtype == self.library.bfloat16:
            return tensor.view(self.library.int16).numpy().view(as_dtype("bfloat16"))
        return tensor.numpy()


class Jax(NumPy):
    no_dtypes = ("int64", "uint64", "float64")  # JAX converts these to 32 bits by default

    def __init__(self):
        self.library = load("jax")
        load("jax.dlpack")

    def take(self, view):
        return self.library.dlpack.from_dlpack(view)

    def address(self, tensor):
        return tensor.unsafe_buffer_pointer()

    def values(self, tensor):
        return np.asarray(tensor)

    def rows(self, tensor):
        return tensor  # its slices are copies


class TensorFlow(NumPy):
    no_dtypes = ()

    def __init__(self):
        self.library = load("tensorflow")

    def take(self, view):
        return self.library.experimental.dlpack.from_dlpack(view.__dlpack__())

    def address(self, tensor):
        if tensor.dtype == "bfloat16":  # the buffer protocol has no code for this dtype
            tensor = self.library.bitcast(tensor, "int16")
        return pointer(np.asarray(memoryview(tensor)))

    def values(self, tensor):
        return tensor.numpy()


LIBRARIES = [NumPy, Torch, Jax, TensorFlow]
in_each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)


@pytest.fixture
def filled(make_ring):
    """Return a ring of 4 slots and a batch of its 4 records: unpadded float32 samples of at least 64 bytes."""
    ring = make_ring({"x": ((32, 32), "float32")}, slots=4)
    for n in range(4):
        ring.put({"x": np.full((32, 32), n, np.float32)})
    return ring, ring.take(max_rows=4)


@in_each_library
def test_a_library_reads_the_rings_own_memory(filled, library):
    _, batch = filled
    library = library()
    tensor = library.take(batch.dlpack("x"))
    assert library.address(tensor) == pointer(batch["x"])
    assert tuple(tensor.shape) == (4, 32, 32)
    assert library.values(tensor)[:, 0, 0].tolist() == [0, 1, 2, 3]


@in_each_library
def test_the_slots_come_back_when_the_library_lets_go(filled, library):
    ring, batch = filled
    library = library()
    tensor = library.take(batch)
    assert batch.release() is False
    del batch
    assert states(ring) == {"taken": 4}
    assert library.values(tensor)[:, 0, 0].tolist() == [0, 1, 2, 3]
    rows = library.rows(tensor)
    del tensor
    gc.collect()
    assert states(ring) == {"taken": 4}
    del rows
    gc.collect()
    assert states(ring) == {"free": 4}


@in_each_library
def test_the_slots_come_back_when_a_library_lets_go_on_another_thread(filled, library):
    ring, batch = filled
    kept = [library().take(batch)]
    batch.release()
    del batch
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert states(ring) == {"free": 4}


@in_each_library
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_library_sees_every_dtype_that_it_knows(make_ring, library, dtype):
    library = library()
    if dtype in library.no_dtypes:
        pytest.skip("the library cannot import this dtype")
    ring = make_ring({"x": ((64,), dtype)}, slots=1)
    sample = (np.arange(64) % 2).astype(as_dtype(dtype))
    ring.put({"x": sample})
    with ring.take(max_rows=1) as batch:
        tensor = library.take(batch)
        assert library.address(tensor) == pointer(batch["x"])
        assert library.values(tensor).dtype == as_dtype(dtype)
        assert library.values(tensor).tobytes() == sample.tobytes()


@in_each_library
def test_a_slot_that_is_being_written_can_be_given_to_a_library(make_ring, library):
    ring = make_ring({"x": ((64,), "float32")}, slots=1)
    library = library()
    with ring.claim() as slot:
        slot["x"] = 3
        tensor = library.take(slot)
        assert tuple(tensor.shape) == (64,)
        assert library.values(tensor).tolist() == [3] * 64
    with ring.take(max_rows=1):
        pass
    assert states(ring) == {"free": ring.slots - 1, "kept": 1}
    del tensor
    gc.collect()
    assert states(ring) == {"free": ring.slots}


@pytest.mark.parametrize("library", [NumPy, Torch], ids=lambda library: library.__name__)
def test_what_a_library_writes_into_a_claim_is_what_is_taken(make_ring, library):
    ring = make_ring({"x": ((64,), "float32")}, slots=1)
    with ring.claim() as slot:
        tensor = library().take(slot)
        if library is NumPy and not tensor.flags.writeable:
            pytest.skip("NumPy before 2.1 imports every tensor as read-only")
        tensor[:] = 5
        del tensor
    with ring.take(max_rows=1) as batch:
        assert (batch["x"] == 5).all()


@pytest.mark.parametrize("library", [NumPy, Torch], ids=lambda library: library.__name__)
def test_padded_samples_come_with_their_strides(make_ring, library):
    ring = make_ring({"x": ((5, 3), "float32"), "y": ((), "int64")}, slots=2)
    for n in range(3):
        ring.put({"x": np.arange(15, dtype=np.float32).reshape(5, 3) + n, "y": n})
    library = library()
    with ring.take(max_rows=3) as batch:
        tensor = library.take(batch.dlpack("x"))
        assert library.address(tensor) == pointer(batch["x"])
        assert (library.values(tensor) == batch["x"]).all()
        assert library.values(library.take(batch.dlpack("y"))).tolist() == [0, 1, 2]
        del tensor


@in_each_library
def test_padded_samples_can_be_had_dense_with_their_padding(make_ring, library):
    ring = make_ring({"x": ((5, 3), "float32")}, slots=2)
    for n in range(3):
        ring.put({"x": np.arange(15, dtype=np.float32).reshape(5, 3) + n})
    library = library()
    with ring.take(max_rows=3) as batch:
        tensor = library.take(batch.dlpack("x", padded=True))
        assert library.address(tensor) == pointer(batch["x"])
        assert (library.values(tensor)[:, :15].reshape(3, 5, 3) == batch["x"]).all()
        del tensor


def test_a_batch_of_one_field_exports_itself_and_one_of_several_says_how(make_ring):
    ring = make_ring({"x": ((), "int64"), "y": ((), "int64")})
    with ring.claim() as slot:
        with pytest.raises(BufferError, match=r"has the fields x, y: export one of them, as in batch\.dlpack\(name\)"):
            np.from_dlpack(slot)
        assert slot.__dlpack_device__() == (1, 0)


def test_every_capsule_is_a_tensor_of_its_own(filled):
    ring, batch = filled
    view = batch.dlpack("x")
    tensors = [np.from_dlpack(view) for _ in range(3)]
    del view
    batch.release()
    while tensors:
        assert states(ring) == {"taken": 4}
        tensors.pop()
    assert states(ring) == {"free": 4}


@pytest.mark.parametrize("version", [None, (), (0, 8), (1, 0), (1, 3), (2, 0)])
def test_a_capsule_without_a_consumer_releases_its_memory(filled, version):
    ring, batch = filled
    capsule = batch.__dlpack__(max_version=version)
    name = '"dltensor_versioned"' if version and version >= (1, 0) else '"dltensor"'
    assert name in repr(capsule)
    batch.release()
    assert states(ring) == {"taken": 4}
    del capsule
    assert states(ring) == {"free": 4}


def test_an_exporter_says_that_the_memory_is_on_the_cpu(filled):
    _, batch = filled
    assert batch.__dlpack_device__() == batch.dlpack("x").__dlpack_device__() == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": 7}, r"stream 7: the ring's memory is on the CPU.*pass None"),
        ({"dl_device": (2, 0)}, r"device \(2, 0\): the ring's memory is on the CPU \(1, 0\); move the tensor"),
        ({"copy": True, "dl_device": (2, 0)}, r"device \(2, 0\): the ring's memory is on the CPU"),
        ({"dl_device": (1, 1)}, r"device \(1, 1\)"),
    ],
)
def test_what_the_ring_does_not_do_is_refused_with_the_way_to_get_it(filled, options, message):
    _, batch = filled
    with pytest.raises(BufferError, match=message):
        batch.__dlpack__(**options)


@pytest.mark.parametrize(
    "options", [{"max_version": 1}, {"max_version": "a"}, {"max_version": (1, None)}, {"dl_device": 1}, {"a": 1}]
)
def test_nonsense_is_refused(filled, options):
    ring, batch = filled
    with pytest.raises(TypeError):
        batch.__dlpack__(**options)
    batch.release()
    assert states(ring) == {"free": 4}


def test_tensors_outlive_the_ring(ring_name):
    ring = ringfeed.Ring.create(ring_name, {"x": ((512,), "int64")}, slots=4)
    ring.put(record(9))
    tensor = np.from_dlpack(ring.take(max_rows=1))
    ring.close()
    ring.unlink()
    del ring
    gc.collect()
    assert (tensor == 9).all()
