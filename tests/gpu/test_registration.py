"""Registration of the ring's memory with a real driver, through cuda-bindings alone.

With `-s` these tests also report how the driver accepted the mirrored mapping, and whether it copies across the border
of two registrations, which its documentation leaves open.
"""

import pytest
from on_gpu import WAYS, cuda_driver, fill, way_of

import ringfeed
from ringfeed import page_locking as pinning
from support import run_program, take_all

pytestmark = pytest.mark.gpu

MIB = 2**20


@pytest.fixture
def cuda():
    return cuda_driver()


def is_registered(cuda, address):
    """Call the driver while its context is current."""
    (status,) = cuda.cuCtxPushCurrent(cuda.CUcontext(pinning.driver().context))
    assert int(status) == 0
    status, _ = cuda.cuMemHostGetFlags(address)
    cuda.cuCtxPopCurrent()
    return int(status) == 0


@pytest.mark.parametrize("mib", [1, 64, 1024])
def test_the_driver_registers_the_mirrored_region(cuda, make_ring, mib, record_property):
    ring = make_ring({"x": ((MIB,), "uint8")}, slots=mib, pin_memory=True)
    assert ring.pinned, ring.memory
    print(f"\n{mib} MiB of slots were registered: {WAYS[way_of(ring)]}")
    record_property("way", WAYS[way_of(ring)])
    record_property("answer", ring.memory["pin_memory"])
    start = ring._region_address("x")
    assert is_registered(cuda, start)
    assert is_registered(cuda, start + mib * MIB) == (way_of(ring) != pinning.FIRST_HALF)
    ring.unpin()
    assert not is_registered(cuda, start)
    assert not is_registered(cuda, start + mib * MIB)


def test_two_handles_of_one_process_register_the_same_pages(cuda, make_ring):
    ring = make_ring(pin_memory=True)
    other = ringfeed.Ring.attach(ring.name, pin_memory=True)
    assert ring.pinned
    assert other.pinned, other.memory
    fill(ring, 0, 3)
    assert take_all(other) == [0, 1, 2]
    other.close()
    del other
    assert is_registered(cuda, ring._region_address("x"))


def copy(cuda, source, size):
    """Copy from an address to the GPU and back. Return the driver's status and the bytes."""
    cuda.cuCtxPushCurrent(cuda.CUcontext(pinning.driver().context))
    status, target = cuda.cuMemAlloc(size)
    assert int(status) == 0
    (answer,) = cuda.cuMemcpyHtoD(target, source, size)
    back = bytearray(size)
    if int(answer) == 0:
        cuda.cuMemcpyDtoH(back, target, size)
    cuda.cuMemFree(target)
    cuda.cuCtxPopCurrent()
    return int(answer), bytes(back)


def test_a_copy_may_pass_the_ring_s_end_where_a_run_may(cuda, make_ring):
    ring = make_ring({"x": ((MIB,), "uint8")}, slots=4, pin_memory=True)
    fill(ring, 1, 4)
    border = ring._region_address("x") + 4 * MIB
    if way_of(ring) != pinning.FIRST_HALF:
        assert copy(cuda, border - 2, 4) == (0, bytes([4, 4, 1, 1]))


def test_what_the_driver_says_to_a_copy_that_begins_in_one_registration_and_ends_in_the_next(
    cuda, make_ring, record_property
):
    ring = make_ring({"x": ((MIB,), "uint8")}, slots=4)
    start, half = ring._region_address("x"), 4 * MIB
    cuda.cuCtxPushCurrent(cuda.CUcontext(pinning.driver().context))
    said = {}
    for halves in ([start], [start, start + half]):
        for address in halves:
            (status,) = cuda.cuMemHostRegister(address, half, pinning.PORTABLE)
            assert int(status) == 0, f"{address - start}: {status}"
        said[len(halves)] = int(cuda_copy_answer(cuda, start + half - 64))
        for address in halves:
            (status,) = cuda.cuMemHostUnregister(address)
            assert int(status) == 0
    cuda.cuCtxPopCurrent()
    print(f"\na copy over the border: {said[1]} where half is registered, {said[2]} where each half is")
    record_property("half_registered", said[1])
    record_property("both_halves_registered", said[2])
    assert set(said.values()) <= {0, 1}  # it copies, or says CUDA_ERROR_INVALID_VALUE


def cuda_copy_answer(cuda, source):
    _, target = cuda.cuMemAlloc(128)
    (answer,) = cuda.cuMemcpyHtoD(target, source, 128)
    cuda.cuMemFree(target)
    return answer


PINNED = """
    ring = ringfeed.Ring.create(None, {"x": ((512,), "int64")}, slots=8, pin_memory=True)
    assert ring.pinned, ring.memory
"""


@pytest.mark.parametrize("alive", ["ring", "ring, batch", "ring, batch, rows"])
def test_a_process_ends_well_with_pinned_memory_in_use(cuda, alive):
    program = f"{PINNED}    ring.put({{'x': np.zeros(512, np.int64)}})\n    batch = ring.take(1); rows = batch['x']\n"
    assert run_program(f"{program}    kept = [{alive}]\n    print('end')") == (0, "end\n", "")


def test_a_forked_child_gets_no_pinned_memory_and_does_no_harm(cuda):
    program = """
    child = os.fork()
    if child == 0:
        assert not ring.pinned and not ring.pin()
        print(ring.memory["pin_memory"], flush=True)
        ring.close(); del ring
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert ring.pinned
    ring.unpin()
    assert not ring.pinned
    """
    status, said, errors = run_program(PINNED + program)
    assert status == 0, errors
    assert "does not survive" in said
