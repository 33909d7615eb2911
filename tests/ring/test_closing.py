"""Closing a ring frees its participant entry and its memory: at once, or when the last view is gone."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import ringfeed
from ringfeed import _core
from support import in_thread, record, run_program, segments, take_all, wait_until, wait_until_waited

FIELDS = {"x": ((512,), "int64")}


def is_mapped(ring_name):
    return ring_name in Path("/proc/self/maps").read_text()


def descriptors_of(ring_name):
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link for link in links if ring_name in link]


def taken_memory(ring_name):
    return is_mapped(ring_name) or descriptors_of(ring_name) != []


def test_a_closed_ring_without_views_has_neither_entry_nor_memory_nor_descriptor(ring, start):
    def hold(pipe, name):
        other = ringfeed.Ring.attach(name)
        pipe.tell(other.stats()["participants"])
        pipe.hear()
        other.close()
        maps = Path("/proc/self/maps").read_text()
        pipe.tell((name in maps, other.closed))
        pipe.hear()

    child = start(hold, ring.name)
    assert child.told() == 2
    child.tell("close")
    assert child.told() == (False, True)
    assert ring.stats()["participants"] == 1
    child.tell("end")
    child.result()


@pytest.mark.parametrize("end", ["close", "with", "close twice", "exception"])
def test_every_way_to_close_gives_the_memory_back_while_the_object_lives(ring_name, end):
    ring = ringfeed.Ring.create(ring_name, FIELDS, slots=8, priorities=2)
    with ring.levels[1].claim() as slot:
        slot["x"] = 3
    assert take_all(ring.levels[1]) == [3]
    del slot
    assert taken_memory(ring_name)
    if end == "with":
        with ring:
            pass
    elif end == "exception":
        with pytest.raises(KeyError), ring:
            raise KeyError(end)
    else:
        ring.close()
        ring.close() if end == "close twice" else None
        ring.unlink()
    assert not taken_memory(ring_name)
    assert ring.closed
    assert ring_name not in segments()


def test_the_pages_of_a_large_ring_are_free_behind_its_close(ring_name):
    def used():
        status = os.statvfs("/dev/shm")
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    with ringfeed.Ring.create(ring_name, {"x": ((1 << 20,), "uint8")}, slots=100) as ring:
        before = used()
    assert before - used() > 90 << 20
    assert ring.slots == 100


@pytest.mark.parametrize("kind", ["batch", "array", "claim", "dlpack"])
def test_with_a_view_alive_the_memory_goes_with_the_view(ring_name, kind):
    ring = ringfeed.Ring.create(ring_name, FIELDS, slots=8)
    ring.put(record(7))
    if kind == "claim":
        view = ring.claim()
    else:
        batch = ring.take(1)
        view = {"batch": batch, "array": batch["x"], "dlpack": np.from_dlpack(batch.dlpack("x"))}[kind]
        del batch
    ring.close()
    ring.unlink()
    assert is_mapped(ring_name)
    if kind in ("array", "dlpack"):
        assert (view == 7).all()
    del view
    gc.collect()
    assert not taken_memory(ring_name)
    assert ring.stats()["published"] == 1


def test_what_a_closed_ring_tells_is_what_was_so_at_its_end(ring):
    for number in range(3):
        ring.put(record(number))
    ring.take(1).release()
    spec, before = ring.spec, ring.stats()
    ring.close()
    after = ring.stats()
    assert {**before, "participants": 0} == {**after, "participants": 0}
    assert (ring.slots, ring.spec, ring.is_nameless, ring.redelivers, ring.mirrored) == (8, spec, False, True, True)
    assert ring.ready == 2
    assert "closed" in repr(ring)
    for call in (
        lambda: ring.put(record(1)),
        lambda: ring.claim(timeout=0),
        lambda: ring.take(1, timeout=0),
        lambda: ring.claim(rows=2),
        lambda: ring.descriptor,
        ring.finish,
        lambda: ringfeed.Ring.attach(ring.name),
        lambda: ring.producing().__enter__(),
    ):
        with pytest.raises(ringfeed.RingClosed, match=ring.name):
            call()
    assert ring.recover() == 0


@pytest.mark.parametrize("kind", ["take", "claim"])
def test_a_thread_that_waits_is_told_and_the_memory_goes_when_it_is_out(ring_name, kind):
    ring = ringfeed.Ring.create(ring_name, FIELDS, slots=2)
    if kind == "claim":
        for number in range(2):
            ring.put(record(number))
    calls = {"take": lambda: ring.take(1), "claim": ring.claim}
    with in_thread(calls[kind]) as waiting:
        wait_until_waited(ring, kind)
        ring.close()
        with pytest.raises(ringfeed.RingClosed):
            waiting.result()
    ring.unlink()
    wait_until(lambda: not taken_memory(ring_name))


def test_no_feed_is_made_of_a_closed_ring(ring):
    ring.close()
    for _ in range(100):  # each attempt must not free the memory once more
        with pytest.raises(ringfeed.RingClosed):
            _core.NativeFeed(ring, 1, 1, 0, False, 0, 0.0, None, 0.0)


def test_a_ring_that_threads_use_while_it_is_closed_does_no_harm_again_and_again():
    large = {"x": ((400_000,), "uint8")}

    def use(ring, value):
        try:
            while True:
                ring.put({"x": value})
                ring.take(2).release()
                ring.stats()
        except ringfeed.RingClosed:
            pass

    for _ in range(100):
        ring = ringfeed.Ring.create_nameless(large, slots=4, participants=8)
        other = ringfeed.Ring.attach_descriptor(os.dup(ring.descriptor), "other")
        threads = [threading.Thread(target=use, args=(ring, np.zeros(400_000, np.uint8))) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda ring=ring: ring.stats()["published"] > 3)
        ring.close()
        for thread in threads:
            thread.join()
        stats = other.stats()
        assert stats["participants"] == 1
        assert stats["claimed"] == stats["taken"] == 0
        other.close()


def test_a_producers_block_that_is_open_keeps_its_entry_until_it_ends(ring_name):
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8) as ring:
        other = ringfeed.Ring.attach(ring_name)

        def fail_in_a_block():
            with other.producing():
                other.close()
                assert not ring.finished
                raise ValueError("lost")

        with pytest.raises(ValueError, match="lost"):
            fail_in_a_block()
        with pytest.raises(ringfeed.ProducerFailed, match="lost"):
            ring.take(1)
        assert ring.stats()["participants"] == 1


def test_the_name_of_a_closed_ring_is_removed_when_its_owner_forgets_it_but_not_the_next_rings(ring_name):
    ring = ringfeed.Ring.create(ring_name, FIELDS, slots=8)
    ring.close()
    assert ring_name in segments()
    del ring
    gc.collect()
    assert ring_name not in segments()
    ring = ringfeed.Ring.create(ring_name, FIELDS, slots=8)
    ring.close()
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8) as other:
        del ring
        gc.collect()
        other.put(record(1))
        assert ring_name in segments()
        assert take_all(other) == [1]


def test_a_closed_ring_is_forked_and_ends_with_its_process(ring_name):
    program = f"""
        ring = ringfeed.Ring.create({ring_name!r}, {{"x": ((512,), "int64")}}, slots=8)
        view = ring.claim()["x"]
        ring.close()
        child = os.fork()
        if child == 0:
            assert ring.closed
            del view
            ring.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        view[...] = 3
        assert ring.stats()["claimed"] == 1
        """
    assert run_program(program) == (0, "", "")
    assert ring_name not in segments()
