"""Copies of ring memory to a GPU by PyTorch, and when a slot may be recycled.

`Ring.pin` documents the pattern: copy with ``non_blocking=True``, record an event after the copy, and release the batch
when the event has completed. The tests overwrite each slot as soon as it is released.
"""

import ctypes
import threading

import numpy as np
import pytest
from on_gpu import expect_numbers, fill, torch_on_gpu

from support import states

pytestmark = pytest.mark.gpu

FIELDS = {"x": ((256, 1024), "float32")}  # 1 MiB
SLEEP_CYCLES = 2**31  # cycles of the GPU: about a second


@pytest.fixture(scope="module")
def torch():
    return torch_on_gpu()


@pytest.fixture
def pinned_ring(torch, make_ring):
    ring = make_ring(FIELDS, slots=8, pin_memory=True)
    assert ring.pinned, ring.memory
    return ring


def host_tensor(torch, batch):
    return torch.from_dlpack(batch.dlpack("x"))


def test_pytorch_sees_that_the_memory_is_pinned(torch, pinned_ring):
    fill(pinned_ring, 0, 1)
    with pinned_ring.take(1) as batch:
        assert host_tensor(torch, batch).is_pinned()
    pinned_ring.unpin()
    fill(pinned_ring, 0, 1)
    with pinned_ring.take(1) as batch:
        assert not host_tensor(torch, batch).is_pinned()


def test_an_unpinned_ring_is_copied_all_the_same(torch, make_ring):
    ring = make_ring(FIELDS)
    fill(ring, 0, 3)
    with ring.take(3) as batch:
        assert not host_tensor(torch, batch).is_pinned()
        expect_numbers(host_tensor(torch, batch).to("cuda", non_blocking=True), 0)


def test_a_run_over_the_ring_s_end_is_copied_whole(torch, pinned_ring):
    fill(pinned_ring, 0, 6)
    pinned_ring.take(6).release()
    fill(pinned_ring, 6, 6)
    copied = 6
    while copied < 12:  # one batch, or two if runs stop at the ring's end
        with pinned_ring.take(8) as batch:
            expect_numbers(host_tensor(torch, batch).to("cuda", non_blocking=True), copied)
            copied += len(batch)


def test_slots_that_are_overwritten_as_soon_as_the_event_has_come_are_on_the_gpu_unharmed(torch, pinned_ring):
    for number in range(0, 2000, 4):
        fill(pinned_ring, number, 4)
        batch = pinned_ring.take(4)
        rows = len(batch)
        on_gpu = host_tensor(torch, batch).to("cuda", non_blocking=True)
        copied = torch.cuda.current_stream().record_event()
        copied.synchronize()
        batch.release()
        with pinned_ring.claim(rows=8) as slots:  # every free slot, including those of the released batch
            slots["x"][...] = -1
            slots.discard()
        expect_numbers(on_gpu, number)
        while rows < 4:  # the batch stopped at the ring's end
            with pinned_ring.take(4) as rest:
                rows += len(rest)


def test_a_copy_in_the_background_reads_the_slot_when_it_runs(torch, pinned_ring):
    # Shows why the event is needed. The copy waits behind a sleeping kernel; the test overwrites the held slot before
    # the copy runs.
    fill(pinned_ring, 1, 1)
    batch = pinned_ring.take(1)
    address = pinned_ring._region_address("x")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        on_gpu = torch.zeros(1, 256, 1024, device="cuda")
        torch.cuda._sleep(SLEEP_CYCLES)
        on_gpu.copy_(host_tensor(torch, batch), non_blocking=True)
        assert not stream.query(), "the copy did not run in the background"
    np.frombuffer((ctypes.c_float * (256 * 1024)).from_address(address), np.float32)[...] = 2
    stream.synchronize()
    expect_numbers(on_gpu, 2)
    batch.release()


def test_the_tensor_alone_keeps_the_slots_until_it_goes_on_another_thread(torch, pinned_ring):
    fill(pinned_ring, 0, 2)
    batch = pinned_ring.take(2)
    held = [host_tensor(torch, batch)]
    batch.release()
    pinned_ring.close()
    on_gpu = held[0].to("cuda", non_blocking=True)
    copied = torch.cuda.current_stream().record_event()

    def let_go():
        copied.synchronize()
        held.clear()

    thread = threading.Thread(target=let_go)
    thread.start()
    thread.join()
    expect_numbers(on_gpu, 0)


def test_copies_on_two_streams_recycle_every_slot(torch, pinned_ring):
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    under_way: list = [None, None]
    for turn in range(200):
        fill(pinned_ring, turn, 1)
        batch = pinned_ring.take(1)
        with torch.cuda.stream(streams[turn % 2]):
            on_gpu = host_tensor(torch, batch).to("cuda", non_blocking=True)
            copied = streams[turn % 2].record_event()
        if under_way[turn % 2]:
            earlier, event, on_gpu_then, number = under_way[turn % 2]
            event.synchronize()
            earlier.release()
            expect_numbers(on_gpu_then, number)
        under_way[turn % 2] = (batch, copied, on_gpu, turn)
    for earlier, event, _, _ in under_way:
        event.synchronize()
        earlier.release()
    assert states(pinned_ring) == {"free": 8}
