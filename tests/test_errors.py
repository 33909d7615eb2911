"""The error classes: their hierarchy, and their way through pickle, futures and event loops."""

import asyncio
import multiprocessing
import pickle
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import ringfeed
from ringfeed import errors

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_is_a_ringfeed_error_with_a_public_name(error):
    assert issubclass(error, ringfeed.RingFeedError)
    assert getattr(ringfeed, error.__name__) is error
    assert error.__name__ in ringfeed.__all__


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_comes_through_pickle_as_it_was(error):
    sent = error("ring 'cams': what happened")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is error
    assert str(received) == str(sent)


OF_TIME = [ringfeed.RingFull, ringfeed.RingEmpty, ringfeed.DeadlineExceeded]


@pytest.mark.parametrize("error", OF_TIME)
def test_errors_of_time_are_timeout_errors_also_behind_pickle_futures_and_event_loops(error):
    sent = error("ring 'cams': what happened")
    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        ways = [
            lambda: pickle.loads(pickle.dumps(sent)),
            lambda: threads.submit(_raise, sent).exception(),
            lambda: processes.submit(_raise, sent).exception(),
            lambda: asyncio.run(_caught(sent)),
        ]
        for way in ways:
            received = way()
            assert type(received) is error
            assert isinstance(received, TimeoutError)
            assert isinstance(received, ringfeed.RingFeedError)
            assert (str(received), received.args) == (str(sent), sent.args)


def _raise(error):
    raise error


async def _caught(error):
    """Return the result of a task under a time limit that it does not reach."""
    future = Future()
    future.set_exception(error)
    try:
        await asyncio.wait_for(asyncio.wrap_future(future), timeout=60)
    except TimeoutError as caught:
        return caught


def test_waits_that_are_over_raise_timeout_errors(ring):
    with pytest.raises(TimeoutError, match="0 of 1 records ready"):
        ring.take(1, timeout=0)
    with pytest.raises(TimeoutError, match="0 of 1 records ready"):
        next(ring.batches(1, timeout=0.001))
    kept = [ring.claim() for _ in range(8)]
    for call in (ring.claim, lambda **options: ring.put({"x": np.zeros(512, int)}, **options)):
        with pytest.raises(TimeoutError, match="0 of 8 slots free"):
            call(timeout=0.001)
    for slot in kept:
        slot.discard()


@pytest.mark.parametrize("error", [ringfeed.PreprocessError, ringfeed.WorkerCrashed])
def test_an_item_error_keeps_its_item_through_pickle(error):
    received = pickle.loads(pickle.dumps(error("item 3: bad", 3, "a.png")))
    assert (str(received), received.index, received.item) == ("item 3: bad", 3, "a.png")


def test_the_public_names_of_the_design_are_all_there():
    names = """RingFeedError RingFull RingEmpty RingFinished RingClosed RingNotFound RingExists LayoutMismatch
        RecordMismatch NoSpace SlotLost EngineDied WorkerCrashed PreprocessError DeadlineExceeded"""
    for name in names.split():
        assert issubclass(getattr(ringfeed, name), ringfeed.RingFeedError)
