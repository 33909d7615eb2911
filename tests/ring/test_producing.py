"""`with ring.producing()`: what ends it, what takers are told, and what counts as another producer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import ringfeed
from ringfeed.failure_text import failure_text
from support import in_thread, numbers, record, take_all, wait_until_waited


class Bad(Exception):
    pass


def produce(ring: ringfeed.Ring, *records: int, error: BaseException | None = None) -> None:
    """Put records in a block of the ring; raise there, if there is something to raise."""
    with ring.producing():
        for number in records:
            ring.put(record(number))
        if error is not None:
            raise error


def fail(ring: ringfeed.Ring, error: BaseException | None = None, *records: int) -> None:
    """Raise in a block of the ring, behind some records."""
    error = Bad("no picture") if error is None else error
    with pytest.raises(type(error)):
        produce(ring, *records, error=error)


def take_batches(ring: ringfeed.Ring, taken: list[list[int]]) -> None:
    for batch in ring.batches(2):
        taken.append(numbers(batch))


def said_by(ring: ringfeed.Ring) -> str:
    with pytest.raises(ringfeed.ProducerFailed) as raised:
        ring.take(1)
    return str(raised.value)


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


def test_a_ring_that_nobody_produces_for_by_blocks_is_finished_by_finish_alone(ring):
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
    with block, pytest.raises(RuntimeError, match=f"{ring.name}.*open already"):
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
        with pytest.raises(ringfeed.RingEmpty, match=rf"producers=3, of which {number} have come"):
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

    def put_together(number):
        with ring.producing():
            together.wait()
            ring.put(record(number))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put_together, range(threads)))
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


# ---- What takers are told ----------------------------------------------------------------------------


def test_takers_drain_the_ring_and_then_get_the_text_of_the_exception(ring):
    fail(ring, None, 1)
    assert numbers(ring.take(4)) == [1]
    text = said_by(ring)
    assert f"ring {ring.name!r}: a producer raised" in text
    assert f"In process {os.getpid()}: {__name__}.Bad: no picture\n" in text
    assert "in produce\n" in text, "the traceback"
    assert said_by(ring) == text, "each time"


def test_it_is_an_error_of_its_own_and_no_end(ring):
    assert not issubclass(ringfeed.ProducerFailed, ringfeed.RingFinished)
    fail(ring)
    with pytest.raises(ringfeed.RingFinished):
        ring.put(record(1))


def test_batches_raises_it_behind_the_last_batch(ring):
    fail(ring, None, 0, 1, 2)
    taken: list[list[int]] = []
    with pytest.raises(ringfeed.ProducerFailed, match="Bad"):
        take_batches(ring, taken)
    assert taken == [[0, 1], [2]]


def test_a_waiting_taker_gets_it(ring):
    with in_thread(ring.take, 4, min_rows=2) as taken:
        wait_until_waited(ring, "take")
        fail(ring)
        with pytest.raises(ringfeed.ProducerFailed, match="no picture"):
            taken.result()


def test_the_other_producers_go_on_and_the_first_text_is_told(ring):
    with ring.producing(), ringfeed.Ring.attach(ring.name) as other:
        fail(other, Bad("the first"))
        with pytest.raises(ringfeed.RingEmpty):
            ring.take(1, timeout=0)
        ring.put(record(1))
        fail(other, Bad("the second"))
    assert numbers(ring.take(1)) == [1]
    assert "the first" in said_by(ring)


def test_a_failed_producer_is_told_also_where_the_ring_was_finished_by_finish(ring):
    with ring.producing():
        fail(ring)
        ring.finish()
    assert "no picture" in said_by(ring)


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(1), SystemExit("no disk"), GeneratorExit(), asyncio.CancelledError()],
    ids=repr,
)
def test_what_ends_a_producer_before_its_time_goes_to_takers(ring, error):
    fail(ring, error)
    assert type(error).__name__ in said_by(ring)


@pytest.mark.parametrize("error", [SystemExit(), SystemExit(None), SystemExit(0)], ids=repr)
def test_an_exit_by_0_just_leaves(ring, error):
    fail(ring, error)
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)


def test_a_generator_that_is_closed_before_its_end_says_so(ring):
    def endless():
        with ring.producing():
            while True:
                yield

    generator = endless()
    next(generator)
    generator.close()
    assert "GeneratorExit" in said_by(ring)


def test_a_producer_that_is_told_of_the_end_has_not_failed(ring):
    def put_behind_the_end():
        with ring.producing():
            ring.finish()
            ring.put(record(1))

    with pytest.raises(ringfeed.RingFinished):
        put_behind_the_end()
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)


def test_the_end_of_another_ring_is_a_failure(make_ring):
    source, ring = make_ring(), make_ring()
    source.finish()
    with pytest.raises(ringfeed.RingFinished), ring.producing():
        source.take(1)
    assert f"RingFinished: ring {source.name!r}" in said_by(ring)


def test_a_failure_goes_through_the_stages(make_ring):
    source, middle, ring = make_ring(), make_ring(), make_ring()
    fail(source)

    def stage(taking, giving):
        with giving.producing():
            for batch in taking.batches(4):
                giving.put({"x": batch["x"][0]})

    for taking, giving in ((source, middle), (middle, ring)):
        with pytest.raises(ringfeed.ProducerFailed):
            stage(taking, giving)
    assert "no picture" in said_by(ring)


# ---- The text ----------------------------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise self

    __repr__ = __str__


class Interrupting(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class StrangeType(type):
    def __getattribute__(cls, name: str) -> object:
        if name in ("__name__", "__qualname__", "__module__"):
            raise ZeroDivisionError
        return super().__getattribute__(name)


class Strange(Exception, metaclass=StrangeType):
    pass


@pytest.mark.parametrize("kind", [Unprintable, Interrupting, Strange], ids=range(3))
def test_an_exception_that_cannot_be_printed_travels(ring, kind):
    with contextlib.suppress(BaseException), ring.producing():
        raise kind
    assert f"In process {os.getpid()}: " in said_by(ring)


TEXTS = ["ü" * 5000, "🐈" * 3000, "x" * 100_000, "\ud800 and \0", "line\n" * 3000, "", "%s %n {}"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_message_is_told_as_far_as_it_fits(ring, text):
    fail(ring, Bad(text))
    told = said_by(ring)
    start = re.sub(r"\ud800|\0", "", text)[:100]
    assert re.sub(r"\\ud800|\\x00", "", told).count(start.rstrip("\n")) >= 1
    assert len(told.encode()) < 5000
    assert "in produce\n" in told, "the traceback has its place beside a long message"


def deeper(levels: int) -> None:
    if levels == 0:
        raise Bad("deep down")
    try:
        deeper(levels - 1)
    except Bad as error:
        raise Bad(f"level {levels}") from error


@pytest.mark.parametrize("most", [60, 200, 1000, 4000])
def test_a_text_that_is_cut_keeps_the_message_and_the_last_lines(most):
    with pytest.raises(Bad) as raised:
        deeper(30)
    told = failure_text(raised.value, most).decode()
    assert len(told) <= most
    assert told.startswith(f"In process {os.getpid()}: ")
    if most >= 200:
        assert "Bad: level 30\n" in told
    if most >= 1000:
        assert told.rstrip().endswith("from error") or "in deeper" in told[-300:]


def test_the_text_of_a_syntax_error_and_of_one_with_notes_names_the_error():
    with pytest.raises(SyntaxError) as raised:
        compile("a b", "<a file>", "exec")
    assert "SyntaxError: invalid syntax" in failure_text(raised.value, 4000).decode().split("\n")[0]
    error = Bad("with a note")
    if hasattr(error, "add_note"):
        error.add_note("look there")
    assert "Bad: with a note" in failure_text(error, 4000).decode().split("\n")[0]


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


def test_levels_that_are_finished_in_part_let_nobody_in(make_ring):
    ring = make_ring(priorities=3)
    ring.levels[2].finish()
    with pytest.raises(ringfeed.RingFinished):
        produce(ring)
    assert ring.levels[0].finished  # a producer was let in there, and was the last that left


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
