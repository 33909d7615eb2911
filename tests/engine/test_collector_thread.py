"""The thread that collects a client's answers: no exception and no callback ends it or blocks other requests.

No model is needed: the engine is `plain_engine.PlainEngine`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import threading
import time

import pytest
from plain_engine import answer_threads
from serving import rows_of, x_of

import ringfeed
from support import in_thread, wait_until


class OddEnd(BaseException):
    """An exception that no library handles by name."""


ENDS = [SystemExit, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, OddEnd, ValueError]


@pytest.mark.parametrize("kind", ENDS)
def test_no_exception_of_a_callback_ends_the_collector_or_later_callbacks(ring, plain_engine, make_client, kind):
    client = make_client(ring)
    seen = []

    def fail(future):
        seen.append("failed")
        raise kind("a callback's")

    first = client.submit(x_of(1))
    first.add_done_callback(fail)
    first.add_done_callback(lambda future: seen.append(int(future.result())))
    others = [client.submit(x_of(number)) for number in range(2, 5)]
    others[1].add_done_callback(fail)
    (worker,) = answer_threads()
    plain_engine.open()
    assert [int(future.result(timeout=30)) for future in [first, *others]] == [1, 2, 3, 4]
    wait_until(lambda: seen.count("failed") == 2 and 1 in seen)
    assert int(client.submit(x_of(7)).result(timeout=30)) == 7
    assert client.predict(rows_of([8, 9]), timeout=30).tolist() == [8, 9]
    assert answer_threads() == [worker]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_in_the_users_own_thread_raises_there(ring, plain_engine, make_client, kind):
    client = make_client(ring)

    def fail(_):
        raise kind

    future = client.submit(x_of(1))
    future.add_done_callback(fail)
    with pytest.raises(kind):
        future.cancel()
    plain_engine.open()
    assert int(client.submit(x_of(2)).result(timeout=30)) == 2


def test_a_callback_may_close_its_client_and_what_is_under_way_fails(ring, plain_engine, make_client):
    client, other = make_client(ring), make_client(ring)
    closed = threading.Event()

    def close(_):
        other.close()
        client.close()
        closed.set()

    first = client.submit(x_of(1), timeout=30)
    first.add_done_callback(close)
    plain_engine.open()
    assert int(first.result()) == 1
    closed.wait()
    wait_until(lambda: not answer_threads())
    for each in (client, other):
        with pytest.raises(ringfeed.RingClosed):
            each.submit(x_of(2))


def test_callbacks_that_close_each_others_clients_do_not_wait_for_each_other(ring, plain_engine, make_client):
    one, two = make_client(ring), make_client(ring)
    both = threading.Barrier(2)
    closed = []

    def close(other):
        both.wait()
        other.close()
        closed.append(other)

    one.submit(x_of(1)).add_done_callback(lambda _: close(two))
    two.submit(x_of(1)).add_done_callback(lambda _: close(one))
    plain_engine.open()
    wait_until(lambda: len(closed) == 2)


@pytest.mark.parametrize("kind", [SystemExit, OddEnd])
def test_a_collector_into_which_an_exception_is_raised_goes_on(ring, plain_engine, make_client, kind):
    client = make_client(ring)
    futures = [client.submit(x_of(number)) for number in range(5)]
    (worker,) = answer_threads()
    for _ in range(3):
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(kind)) == 1
        wait_until(lambda: not pending_exception(worker))
    plain_engine.open()
    assert [int(future.result(timeout=30)) for future in futures] == list(range(5))


def pending_exception(thread):
    # The exception is raised when the thread runs Python code, which it does at least every 50 ms.
    time.sleep(0.06)
    return False


def test_a_callback_that_never_returns_blocks_no_other_request(ring, plain_engine, make_client):
    client = make_client(ring)
    release, entered = threading.Event(), threading.Event()

    def hang(_):
        entered.set()
        release.wait()

    client.submit(x_of(1)).add_done_callback(hang)
    plain_engine.open()
    entered.wait()
    try:
        assert int(client.submit(x_of(2)).result()) == 2
        assert client.submit(x_of(3), timeout=30).exception() is None
        assert client.predict(rows_of(range(40)), timeout=30).tolist() == list(range(40))
        assert asyncio.run(client.apredict(x_of(5))) == 5
        plain_engine.close_gate()
        late = client.submit(x_of(6), timeout=0.2)
        with pytest.raises(ringfeed.DeadlineExceeded):
            late.result()
        with pytest.raises(ringfeed.DeadlineExceeded):
            client.predict(rows_of([3, 4]), timeout=0.2)
        with pytest.raises(ringfeed.DeadlineExceeded):
            asyncio.run(client.apredict(x_of(5), timeout=0.2))
        assert type(client.submit(x_of(6), timeout=0.2).exception()) is ringfeed.DeadlineExceeded
        with pytest.raises((TimeoutError, concurrent.futures.TimeoutError)):
            client.submit(x_of(7)).result(timeout=0.1)
        plain_engine.open()
        assert int(client.predict(x_of(8), timeout=30)) == 8
    finally:
        release.set()
    assert int(client.submit(x_of(9)).result(timeout=30)) == 9


def test_a_future_whose_lock_is_held_blocks_no_other_request(ring, plain_engine, make_client):
    client = make_client(ring)
    held, other = client.submit(x_of(1)), client.submit(x_of(2))
    with held._condition:  # as a thread does that a signal handler interrupts in `result` or `add_done_callback`
        plain_engine.open()
        with in_thread(other.result) as answer:
            pass
        assert int(answer.result()) == 2
    assert int(held.result(timeout=30)) == 1
