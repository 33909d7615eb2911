"""Endings of a feed: the ring's end, errors, deleted iterators, Ctrl-C, the interpreter's exit; and idle waits."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time

import pytest
import tensorflow as tf
from feeding import WAITS, end_a_wait_by_ctrl_c, fill, fill_at_once, first_numbers, produce

import ringfeed
from ringfeed.tf import dataset
from support import run_program, states, wait_until, wait_until_waited

pytestmark = pytest.mark.usefixtures("way_of_long_tests", "quick_collection")


# ---- The ring's end ----------------------------------------------------------------------------------


def test_the_dataset_ends_when_the_ring_is_finished_and_drained(ring, start):
    producer = start(produce, ring.name, 100)
    seen = [number for element in dataset(ring, 4, structure="x") for number in first_numbers(element)]
    assert seen == list(range(100))
    producer.result()


def test_after_the_end_there_is_nothing_more(ring):
    fill(ring, range(3))
    ring.finish()
    elements = dataset(ring, 4, structure="x")
    assert [len(element) for element in elements] == [3]
    assert list(elements) == []
    assert list(elements.repeat()) == []


def test_another_iteration_continues_with_the_following_records(ring):
    elements = dataset(ring, 2, structure="x")
    for start in range(0, 12, 4):
        fill(ring, range(start, start + 4))
        assert [first_numbers(element) for element in elements.take(2)] == [[start, start + 1], [start + 2, start + 3]]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_ring_that_was_closed_here_is_an_error_that_names_it(ring, prefetch):
    elements = iter(dataset(ring, 2, prefetch=prefetch))
    ring.close()
    with pytest.raises(tf.errors.UnknownError, match=f"RingClosed: ring '{ring.name}' is closed"):
        next(elements)


def own_a_ring(pipe, name):
    with ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=8) as ring:
        fill(ring, [1])
        pipe.tell("created")
        pipe.hear()


@pytest.mark.parametrize("end", ["close", "die"])
def test_the_end_of_the_owner_reaches_a_loop_that_waits(ring_name, start, end):
    owner = start(own_a_ring, ring_name)
    owner.told()
    with ringfeed.Ring.attach(ring_name) as ring:

        @tf.function
        def read(elements):
            for element in elements:
                tf.print(element[0, 0], output_stream=sys.stderr)

        ending = threading.Thread(
            target=lambda: (wait_until_waited(ring, "take"), owner.tell() if end == "close" else owner.kill())
        )
        ending.start()
        with pytest.raises(tf.errors.UnknownError, match=f"RingClosed: ring '{ring_name}' is closed"):
            read(dataset(ring, 2, structure="x"))
        ending.join()
        ring.unlink()


def test_a_ring_that_the_program_did_not_keep_is_an_error_that_names_it(make_ring):
    ring = make_ring()
    other = ringfeed.Ring.attach(ring.name)
    elements = dataset(other, 2)
    del (
        elements._input_dataset._ringfeed_ring
    )  # as if the program had kept only an object that TensorFlow derived from the dataset
    del other
    gc.collect()
    with pytest.raises(tf.errors.UnknownError, match=f"RingClosed: ring '{ring.name}': it was dropped before"):
        next(iter(elements))


@pytest.mark.parametrize("seconds", [0, 0.02, 0.4])
def test_a_wait_takes_no_longer_than_its_timeout(ring, seconds):
    began = time.monotonic()
    with pytest.raises(
        tf.errors.UnknownError, match=f"RingEmpty: ring '{ring.name}': 0 of 1 records ready after {seconds:g} s"
    ):
        next(iter(dataset(ring, 2, timeout=seconds)))
    assert time.monotonic() - began >= seconds


def test_a_timeout_counts_anew_for_each_element(ring):
    elements = dataset(ring, 2, structure="x", timeout=0.3)
    iterator = iter(elements)
    for number in range(3):
        fill(ring, [number])
        assert first_numbers(next(iterator)) == [number]
    with pytest.raises(tf.errors.UnknownError, match=r"after 0\.3 s"):
        next(iterator)
    fill(ring, [3])
    assert first_numbers(next(iter(elements))) == [3]


# ---- Deleted iterators -------------------------------------------------------------------------------


def test_an_iterator_that_prefetches_on_an_idle_ring_can_be_dropped(ring):
    fill(ring, range(2))
    elements = iter(dataset(ring, 2, structure="x", prefetch=2))
    assert first_numbers(next(elements)) == [0, 1]
    wait_until_waited(ring, "take")
    del elements  # without the end of a round, this would hang until the next record
    assert states(ring) == {"free": 8}
    fill(ring, [2])
    assert ring.stats()["ready"] == 1  # no taker is left


def test_take_ends_while_the_prefetch_before_it_waits(ring):
    fill(ring, range(4))
    assert [first_numbers(each) for each in dataset(ring, 2, structure="x", prefetch=3).take(2)] == [[0, 1], [2, 3]]
    assert states(ring) == {"free": 8}


def test_a_loop_that_is_left_frees_its_element_and_loses_no_other_record(ring):
    fill(ring, range(6))
    elements = dataset(ring, 2, structure="x")
    for element in elements:
        assert first_numbers(element) == [0, 1]
        break
    assert ring.stats()["taken"] == 2  # the loop's variable still holds an element
    del element
    assert states(ring) == {"free": 4, "ready": 4}
    assert first_numbers(next(iter(elements))) == [2, 3]


@pytest.mark.parametrize("prefetch", [1, 2])
def test_a_deleted_iterator_returns_its_prefetched_elements(ring, prefetch):
    fill(ring, range(8))
    elements = iter(dataset(ring, 2, structure="x", prefetch=prefetch))
    first = next(elements)
    wait_until(lambda: ring.stats()["taken"] == 2 * (prefetch + 1))
    del elements, first
    stats = ring.stats()
    assert stats["taken"] == 0
    assert stats["free"] <= 2 * (prefetch + 2)  # the element and the prefetched elements; no other record is consumed


# ---- Ctrl-C ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        each if each in ("a loop", "a model") else pytest.param(each, marks=pytest.mark.slow)
        for each in [*WAITS, "a step inside a tape"]
    ],
)
def test_ctrl_c_ends_a_wait(ring, tmp_path, what):
    end_a_wait_by_ctrl_c(
        ring,
        tmp_path / "program.py",
        'elements = ringfeed.tf.dataset(ring, 2, structure="x")',
        WAITS.get(what, "with tf.GradientTape(): next(iter(elements))"),
    )


def test_a_ctrl_c_that_the_program_handles_does_not_end_a_wait(ring, monkeypatch):
    """The feed waits in the background, like a prefetch, while the main thread runs Python."""
    monkeypatch.setattr("ringfeed.tf.feed.waiting.ROUND_SECONDS", 1e9)  # a round must not end by itself
    fill(ring, range(2))
    elements = iter(dataset(ring, 2, structure="x", prefetch=1))
    assert first_numbers(next(elements)) == [0, 1]
    wait_until_waited(ring, "take")
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- the signal comes when it comes
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass
    slices = threading.Thread(target=lambda: [wait_until_waited(ring, "take") for _ in range(3)])
    slices.start()
    slices.join()  # the main thread stays at one place, as inside TensorFlow, but here Python runs its handlers
    fill_at_once(ring, [2, 3])
    assert first_numbers(next(elements)) == [2, 3]
    ring.finish()  # ends the wait for the next element


def test_a_ctrl_c_that_was_handled_before_a_loop_does_not_end_it(ring):
    @tf.function
    def count(elements):
        rows = 0
        for element in elements:
            rows += tf.shape(element)[0]
        return rows

    elements = dataset(ring, 2, structure="x")
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- the signal comes when it comes
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass

    def fill_after_some_slices():
        for _ in range(4):
            wait_until_waited(ring, "take")
        fill(ring, [1])
        ring.finish()

    filling = threading.Thread(target=fill_after_some_slices)
    filling.start()
    assert count(elements) == 1
    filling.join()


def test_handlers_of_sigint_are_the_programs_own_after_a_wait(ring):
    handler = signal.getsignal(signal.SIGINT)
    elements = iter(dataset(ring, 2, structure="x", timeout=0.01))
    with pytest.raises(tf.errors.UnknownError):
        next(elements)
    assert signal.getsignal(signal.SIGINT) is handler
    caught = []
    signal.signal(signal.SIGINT, lambda *_: caught.append("here"))
    try:
        with pytest.raises(tf.errors.UnknownError):
            next(iter(dataset(ring, 2, structure="x", timeout=0.01)))
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == ["here"]
    finally:
        signal.signal(signal.SIGINT, handler)


# ---- The interpreter's exit, and idle waits -----------  ----------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_program_ends_while_a_feed_waits_in_the_background(ring_name, prefetch):
    status, printed, errors = run_program(
        f"""
        import threading
        import tensorflow as tf

        ring = ringfeed.Ring.create({ring_name!r}, {{"x": ((512,), "int64")}}, slots=8)
        ring.put({{"x": np.zeros(512, np.int64)}})
        elements = iter(ringfeed.tf.dataset(ring, 2, structure="x", prefetch={prefetch}))
        next(elements)
        if not {prefetch}:
            threading.Thread(target=next, args=[elements, None], daemon=True).start()
        before = ring.stats()["take_wait_ns"]
        while ring.stats()["take_wait_ns"] == before:
            pass
        print("waits")
        """
    )
    assert (status, printed) == (0, b"waits\\n".decode("unicode_escape")), errors
    assert "terminate called" not in errors


def test_a_feed_that_waits_uses_almost_no_processor_time(ring):
    elements = iter(dataset(ring, 2, structure="x"))
    waiting = threading.Thread(target=next, args=[elements])
    waiting.start()
    for _ in range(3):
        wait_until_waited(ring, "take")
    turns = 8
    before = time.process_time(), time.monotonic()
    waited = ring.stats()["take_wait_ns"]
    while ring.stats()["take_wait_ns"] < waited + turns * 250_000_000:
        time.sleep(0.25)
    used, passed = time.process_time() - before[0], time.monotonic() - before[1]
    fill(ring, [1])
    waiting.join()
    assert used < 0.05 * passed  # measured: 0.007 to 0.011
