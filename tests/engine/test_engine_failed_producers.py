"""An engine whose ring has a producer that raised: it answers all records, logs the error, and ends."""

from __future__ import annotations

import logging

import pytest
from serving import first_number, x_of

import ringfeed
from support import in_thread, record


def fail_behind(ring, numbers):
    with ring.producing():
        for number in numbers:
            ring.put(record(number))
        raise ValueError("no picture")


def expect_failure(ring, numbers=()):
    with pytest.raises(ValueError, match="no picture"):
        fail_behind(ring, numbers)


def test_it_serves_the_records_logs_the_text_once_and_ends(ring, serve, make_client, caplog):
    engine = serve(ring, devices=["CPU:0"])
    client = make_client(ring.name)
    with caplog.at_level(logging.WARNING, "ringfeed.engine"):
        with ring.producing():
            futures = [client.submit(x_of(number)) for number in range(4)]
            with ringfeed.Ring.attach(ring.name) as other:
                expect_failure(other, range(2))
        assert engine.wait()
    assert [future.result() for future in futures] == list(range(4))
    assert engine.stats().rows == 6
    said = [message for message in caplog.messages if "ValueError: no picture" in message]
    assert len(said) == 1
    assert ring.name in said[0]
    assert not any("could not be served" in message for message in caplog.messages)


def test_run_raises_the_error_after_all_records_are_served(ring):
    engine = ringfeed.Engine(ring, first_number, linger=0.0)
    with in_thread(engine.run) as running:
        expect_failure(ring, range(3))
        with pytest.raises(ringfeed.ProducerFailed, match="no picture"):
            running.result()
    assert engine.stats().rows == 3
    assert not engine.running


def test_an_engine_of_several_priorities_ends_with_the_last_and_raises_the_error(make_ring):
    ring = make_ring(priorities=2)
    engine = ringfeed.Engine(ring, first_number, linger=0.0)
    with in_thread(engine.run) as running:
        expect_failure(ring, range(3))
        with pytest.raises(ringfeed.ProducerFailed, match="no picture"):
            running.result()


def test_producers_that_leave_regularly_finish_the_engine(ring):
    engine = ringfeed.Engine(ring, first_number, linger=0.0)
    with in_thread(engine.run) as running:
        with ring.producing():
            ring.put(record(1))
        assert running.result() is None
    assert engine.stats().rows == 1
