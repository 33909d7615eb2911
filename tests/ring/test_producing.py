"""`with ring.producing()`: the end of the ring, and what counts as another producer."""

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from producers import fail, produce, said_by

import ringfeed
from support import in_thread, numbers, record, take_all, wait_until_waited

# ---- The end -----------------------------------------------------------------------------------------


def test_the_end_of_the_block_finishes_the_ring(ring):
    with ring.producing() as same:
        assert same is ring
        ring.put(record(1))
        assert not ring.finished
    assert ring.finished
    assert [numbers(batch) for batch in ring.batches(4)] == [[1]]
    with pytest.raises(ringfeed.RingFinished):
        ring.put(record(2))


def test_the_last_of_several_producers_finishes_the_ring(ring):
    with ringfeed.Ring.attach(ring.name) as other:
        with ring.producing():
            with other.producing():
                other.put(record(1))
            assert not ring.finished
            ring.put(record(2))
        assert other.finished
    assert take_all(ring) == [1, 2]


def test_a_taker_that_waits_is_told_at_once(ring):
    with in_thread(ring.take, 4) as taken:
        with ring.producing():
            wait_until_waited(ring, "take")
        with pytest.raises(ringfeed.RingFinished):
            taken.result()


def test_a_ring_without_producer_blocks_is_finished_by_finish_alone(ring):
    with ringfeed.Ring.attach(ring.name) as other:
        other.put(record(1))
    assert not ring.finished


def test_finish_ends_the_ring_while_others_produce(ring):
    with ring.producing():
        ring.put(record(1))
        ring.finish()
        with pytest.raises(ringfeed.RingFinished):
            ring.put(record(2))
    assert take_all(ring) == [1]
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)


def test_a_producer_that_comes_after_the_end_is_told_so_and_how_to_avoid_it(ring):
    with ring.producing():
        pass
    with pytest.raises(ringfeed.RingFinished, match=rf"{ring.name}.*before this producer came.*producers=n"):
        produce(ring)


def test_a_block_in_a_closed_ring_is_refused(make_ring):
    ring = make_ring()
    ring.close()
    with pytest.raises(ringfeed.RingClosed):
        produce(ring)


def test_closing_the_handle_inside_the_block_leaves_the_block_to_its_end(ring):
    with ringfeed.Ring.attach(ring.name) as other:
        with other.producing():
            other.put(record(1))
            other.close()
            assert not ring.finished
        assert ring.finished
    assert take_all(ring) == [1]


def test_the_owner_may_close_the_ring_inside_the_block(make_ring):
    ring = make_ring()

    def put_into_a_closed_ring(other):
        with other.producing():
            ring.close()
            other.put(record(1))

    with ringfeed.Ring.attach(ring.name) as other:
        with pytest.raises(ringfeed.RingClosed):
            put_into_a_closed_ring(other)
        assert not other.finished
        with pytest.raises(ringfeed.RingClosed):
            other.take(1)


def test_a_block_that_is_dropped_unended_ends(ring):
    with ringfeed.Ring.attach(ring.name) as other:
        block = other.producing()
        block.__enter__()
        assert not ring.finished
        del block
        assert ring.finished


def test_one_block_is_not_entered_twice_at_a_time_and_may_be_entered_again(make_ring):
    ring = make_ring(producers=2)
    block = ring.producing()
    with block, pytest.raises(RuntimeError, match=f"{ring.name}.*already open"):
        block.__enter__()
    assert not ring.finished
    with block:
        pass
    assert ring.finished


def test_a_block_may_stand_in_an_exit_stack_and_in_a_generator(make_ring):
    with contextlib.ExitStack() as stack:
        ring = make_ring()
        stack.enter_context(ring.producing())
    assert ring.finished

    def counting(ring):
        with ring.producing():
            yield from range(3)

    ring = make_ring()
    assert list(counting(ring)) == [0, 1, 2]
    assert ring.finished


# ---- How many producers ------------------------------------------------------------------------------


def test_a_ring_for_three_producers_waits_for_three(make_ring):
    ring = make_ring(producers=3)
    for number in range(3):
        assert not ring.finished
        with pytest.raises(ringfeed.RingEmpty, match=rf"producers=3, and {number} have come"):
            ring.take(1, timeout=0)
        with ring.producing():
            ring.put(record(number))
        assert take_all(ring) == [number]
    assert ring.finished


def test_a_block_inside_another_is_no_further_producer(make_ring):
    ring = make_ring(producers=2)
    with ring.producing(), ring.producing(), ring.producing():
        ring.put(record(1))
    assert not ring.finished
    with ring.producing():
        pass
    assert ring.finished


def test_blocks_that_overlap_in_one_thread_are_one_producer(make_ring):
    ring = make_ring(producers=2)
    first, second = ring.producing(), ring.producing()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert not ring.finished


def test_each_thread_is_a_producer(make_ring):
    threads = 6
    ring = make_ring(producers=threads, slots=64)
    together = threading.Barrier(threads)

    def unflatten(number):
        with ring.producing():
            together.wait()
            ring.put(record(number))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(unflatten, range(threads)))
    assert sorted(take_all(ring)) == list(range(threads))
    assert ring.finished


def test_each_task_is_a_producer(make_ring):
    ring = make_ring(producers=3)

    async def put_later(number):
        with ring.producing(), ring.producing():
            await asyncio.sleep(0)
            ring.put(record(number))
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(put_later(number) for number in range(2)))
        assert not ring.finished
        await put_later(2)

    asyncio.run(main())
    assert ring.finished
    assert sorted(take_all(ring)) == [0, 1, 2]


@pytest.mark.parametrize("wrong", [0, -1, 2**31, 1.5, "2"])
def test_a_number_of_producers_that_makes_no_sense_is_refused(make_ring, wrong):
    with pytest.raises((ValueError, TypeError), match="producers"):
        make_ring(producers=wrong)


# ---- Levels, descriptors, rings without a name -------------------------------------------------------


def test_a_block_covers_every_level(make_ring):
    ring = make_ring(priorities=3)
    with ringfeed.Ring.attach(ring.name) as other:
        with other.producing():
            other.levels[2].put(record(7))
            with pytest.raises(ringfeed.RingEmpty):
                ring.levels[1].take(1, timeout=0)
        assert all(level.finished for level in ring.levels)
    assert numbers(ring.take_urgent(1)) == [7]
    with pytest.raises(ringfeed.RingFinished):
        ring.take_urgent(1)


def test_a_failure_is_told_by_every_level(make_ring):
    ring = make_ring(priorities=3, producers=2)
    with ring.producing():
        ring.levels[1].put(record(7))
        with ringfeed.Ring.attach(ring.name) as other, in_thread(fail, other):
            pass
    assert numbers(ring.take_urgent(1)) == [7]
    with pytest.raises(ringfeed.ProducerFailed, match="no picture"):
        ring.take_urgent(1)
    for level in ring.levels:
        assert "no picture" in said_by(level)


def test_take_urgent_tells_the_failure_of_a_level_that_had_producers_of_its_own(make_ring):
    ring = make_ring(priorities=3)
    for level in ring.levels[:2]:
        level.finish() if level is not ring else super(ringfeed.Ring, ring).finish()
    fail(ring.levels[2])
    with pytest.raises(ringfeed.ProducerFailed, match="no picture"):
        ring.take_urgent(1)


def test_partly_finished_levels_admit_no_producer(make_ring):
    ring = make_ring(priorities=3)
    ring.levels[2].finish()
    with pytest.raises(ringfeed.RingFinished):
        produce(ring)
    assert ring.levels[0].finished  # the producer entered this level first, and was its last producer to leave


def test_a_ring_by_descriptor_and_one_without_a_name_are_as_any(make_ring):
    rings = [make_ring(producers=2), ringfeed.Ring.create_nameless({"x": ((512,), "int64")}, 8, producers=2)]
    for ring in rings:
        other = ringfeed.Ring.attach_descriptor(os.dup(ring.descriptor), "theirs")
        with ring.producing():
            with other.producing():
                other.put(record(3))
            assert not ring.finished
        assert take_all(ring) == [3]
        assert other.finished
        other.close()
        ring.close()
