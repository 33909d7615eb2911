"""Redelivery: a batch whose taker raises becomes ready again; records that fail repeatedly become dead letters."""

import asyncio
import logging

import numpy as np
import pytest

import ringfeed
from support import numbers, record, states


def put_all(ring, *values):
    for value in values:
        ring.put(record(value), tag=value)


def fail_in_a_with(ring, error, **options):
    with pytest.raises(error), ring.take(max_rows=8, timeout=0, **options):
        raise error


def fail_in_a_loop(ring, error, **options):
    def loop():
        for _ in ring.batches(max_rows=8, timeout=0, **options):
            raise error

    with pytest.raises(error):
        loop()


def fail_in_a_loop_with_a_finally(ring, error, **options):
    def body():
        for batch in ring.batches(max_rows=8, timeout=0, **options):
            try:
                len(batch)
                raise error
            finally:
                str(batch)

    with pytest.raises(error):
        body()


def fail_in_a_with_of_a_loop(ring, error, **options):
    batches = ring.batches(max_rows=8, timeout=0, **options)

    def loop():
        for batch in batches:
            with batch:
                raise error

    with pytest.raises(error):
        loop()


failing = pytest.mark.parametrize(
    "fail",
    [fail_in_a_with, fail_in_a_loop, fail_in_a_loop_with_a_finally, fail_in_a_with_of_a_loop],
    ids=lambda fail: fail.__name__,
)


@failing
def test_rows_over_which_the_taker_raises_are_there_again_and_come_alone(ring, fail):
    put_all(ring, 1, 2, 3)
    fail(ring, ValueError)
    assert states(ring) == {"free": 5, "ready": 3}
    put_all(ring, 4, 5)
    taken = []
    for _ in range(4):
        with ring.take(max_rows=8, timeout=5) as batch:
            taken.append(numbers(batch))
            again = taken[-1] != [4, 5]
            assert batch.deliveries.tolist() == [2] if again else [1, 1]
            assert batch.failures == again
    assert taken == [[1], [2], [3], [4, 5]]
    assert states(ring) == {"free": 8}
    assert ring.stats()["redelivered"] == 3


def test_a_take_with_min_rows_gets_failed_rows_together_but_no_dead_letter(make_ring):
    ring = make_ring(slots=8, max_deliveries=2)
    put_all(ring, 1, 2, 3)
    ring.take(max_rows=3).give_back(failed=True)
    ring.take(max_rows=1).give_back(failed=True)
    with ring.take(max_rows=8, min_rows=2, timeout=5) as batch:
        assert numbers(batch) == [2, 3]
        assert batch.failures == 1
        assert batch.records["failures"].tolist() == [1, 1]
    assert ring.stats()["dead_letters"] == 1


@failing
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_the_program_or_a_task_gives_back_and_is_no_failure_of_the_record(ring, fail, error):
    put_all(ring, 1, 2)
    for _ in range(4):
        fail(ring, error)
    with ring.take(max_rows=8, timeout=0) as batch:
        assert numbers(batch) == [1, 2]
        assert batch.failures == 0
        assert batch.deliveries.tolist() == [5, 5]


@failing
def test_a_record_over_which_takers_raise_twice_is_a_dead_letter_and_the_others_are_taken(ring, fail, caplog):
    put_all(ring, 1, 13, 3)
    fail(ring, ValueError)
    taken = []
    with caplog.at_level(logging.ERROR, "ringfeed"):
        while True:
            try:
                with ring.take(max_rows=8, timeout=0) as batch:
                    if numbers(batch) == [13]:
                        raise ValueError
                    taken += numbers(batch)
            except ValueError:
                continue
            except ringfeed.RingEmpty:
                break
    assert taken == [1, 3]
    assert ring.stats()["dead_letters"] == 1
    assert "tag 13" in caplog.text
    assert states(ring) == {"free": 8}


@failing
def test_rows_are_released_where_that_is_asked_for(ring, fail):
    put_all(ring, 1, 2)
    fail(ring, ValueError, on_error="release")
    assert states(ring) == {"free": 8}
    assert ring.stats()["released"] == 2


def test_both_parts_of_a_batch_that_was_cut_are_released_where_that_is_asked_for(ring):
    put_all(ring, 1, 2, 3, 4)
    first = ring.take(max_rows=4, on_error="release")
    for part in (first, first.split(2)):
        with pytest.raises(ZeroDivisionError), part:
            raise ZeroDivisionError
    assert states(ring) == {"free": 8}


def test_a_ring_that_does_not_redeliver_drops_what_its_taker_failed_over(make_ring):
    ring = make_ring(redeliver=False)
    put_all(ring, 1, 2)
    fail_in_a_with(ring, ValueError)
    assert states(ring) == {"free": 8}
    assert ring.stats()["dropped"] == 2


@pytest.mark.parametrize("end", ["break", "return", "close"])
def test_a_loop_that_ends_without_an_exception_releases_its_batch(ring, end):
    def loop():
        batches = ring.batches(max_rows=1, timeout=0)
        for _ in batches:
            if end == "return":
                return
            if end == "break":
                break
            batches.close()

    put_all(ring, 1, 2)
    loop()
    assert states(ring) == {"free": 7, "ready": 1}


def test_a_batch_is_given_back_by_hand_as_often_as_one_likes(ring):
    put_all(ring, 1, 2)
    for time in range(5):
        batch = ring.take(max_rows=8, timeout=0)
        assert numbers(batch) == [1, 2]
        assert batch.deliveries.tolist() == [time + 1] * 2
        assert batch.give_back()
        assert batch.released
    with pytest.raises(ringfeed.RingFeedError, match="released"):
        batch.give_back()
    assert ring.stats()["dead_letters"] == 0


def test_rows_that_are_given_back_are_there_again_with_the_last_view_of_them(ring):
    put_all(ring, 1, 2)
    batch = ring.take(max_rows=8)
    view = batch["x"][1, 3:]
    assert batch.give_back() is False
    assert states(ring) == {"free": 6, "taken": 2}
    assert (view == 2).all()
    del view
    assert states(ring) == {"free": 6, "ready": 2}


def test_a_batch_that_is_given_back_as_failed_counts(make_ring):
    ring = make_ring(max_deliveries=3)
    assert ring.max_deliveries == 3
    put_all(ring, 1)
    for failures in range(3):
        batch = ring.take(max_rows=8, timeout=0)
        assert batch.failures == failures
        batch.give_back(failed=True)
    with pytest.raises(ringfeed.RingEmpty):
        ring.take(max_rows=8, timeout=0)
    assert ring.stats()["dead_letters"] == 1


def test_there_may_be_no_limit(make_ring):
    ring = make_ring(max_deliveries=None)
    assert ring.max_deliveries is None
    put_all(ring, 1)
    for _ in range(20):
        ring.take(max_rows=8, timeout=0).give_back(failed=True)
    assert ring.take(max_rows=8, timeout=0).failures == 20


@pytest.mark.parametrize("wrong", [0, -1, 256])
def test_a_limit_that_makes_no_sense_is_refused(make_ring, wrong):
    with pytest.raises(ValueError, match="max_deliveries"):
        make_ring(max_deliveries=wrong)


def test_another_word_for_on_error_is_refused(ring):
    with pytest.raises(ValueError, match="on_error 'retry': give"):
        ring.take(max_rows=1, timeout=0, on_error="retry")
    with pytest.raises(ValueError, match="on_error 'requeue': give"):
        next(ring.batches(max_rows=1, timeout=0, on_error="requeue"))


def test_dead_letters_of_every_priority_are_set_aside(make_ring):
    ring = make_ring(priorities=2, max_deliveries=1)
    for level in ring.levels:
        put_all(level, 1, 2)
        level.take(max_rows=1).give_back(failed=True)
    assert numbers(ring.take_urgent(max_rows=8, timeout=0)) == [2]
    assert numbers(ring.take_urgent(max_rows=8, timeout=0)) == [2]
    assert [level.stats()["dead_letters"] for level in ring.levels] == [1, 1]


def test_records_say_how_many_failed(ring):
    put_all(ring, 1)
    ring.take(max_rows=1).give_back(failed=True)
    batch = ring.take(max_rows=1)
    assert batch.records["failures"].tolist() == [1]
    assert batch.records["deliveries"].dtype == np.uint32


def test_a_generator_that_is_closed_has_delivered_what_it_yielded(make_ring):
    ring = make_ring({"x": ((), "int64")})

    def rows():
        while True:
            with ring.take(2) as batch:
                yield batch["x"].tolist()

    for number in range(4):
        ring.put({"x": number})
    generator = rows()
    assert next(generator) == [0, 1]
    generator.close()
    assert next(rows()) == [2, 3]
