"""An exception in `with ring.producing()` reaches the takers: when they get it, and its text."""

import asyncio
import contextlib
import os
import re

import pytest
from producers import Bad, fail, said_by

import ringfeed
from ringfeed.failure_text import failure_text
from support import in_thread, numbers, record, wait_until_waited


def take_batches(ring: ringfeed.Ring, taken: list[list[int]]) -> None:
    for batch in ring.batches(2):
        taken.append(numbers(batch))


def test_takers_drain_the_ring_and_then_get_the_text_of_the_exception(ring):
    fail(ring, None, 1)
    assert numbers(ring.take(4)) == [1]
    text = said_by(ring)
    assert f"ring {ring.name!r}: a producer raised" in text
    assert f"In process {os.getpid()}: {Bad.__module__}.Bad: no picture\n" in text
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
    assert "in produce\n" in told, "a long message leaves room for the traceback"


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
