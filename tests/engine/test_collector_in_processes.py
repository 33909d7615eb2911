"""The thread that collects a client's answers, amid limits on threads, signals and forks.

No model is needed: the engine is `plain_engine.PlainEngine`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import threading

import pytest
from plain_engine import PlainEngine, answer_threads
from serving import rows_of, x_of

import ringfeed
from support import in_thread, wait_until


def _ask_without_threads(pipe, name):
    """Ask as a user who may start no more threads; the limit does not apply to root."""
    with ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=8) as ring, PlainEngine(ring).open():
        client = ringfeed.Client(ring)
        assert int(client.predict(x_of(0))) == 0
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
        said = []
        for ask in (client.submit, client.submit_rows, lambda x: asyncio.run(client.apredict(x))):
            try:
                ask(x_of(1) if ask != client.submit_rows else rows_of([1, 2]))
            except ringfeed.RingFeedError as error:
                said.append(str(error))
        rows = client.predict(rows_of(range(40)), timeout=30).tolist()
        again = client.predict_rows({"x": rows_of([5])}, timeout=30).tolist()
        alone = int(client.predict(x_of(3), timeout=30))
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        later = int(client.submit(x_of(6)).result(timeout=30))
        client.close()
    return said, rows, again, alone, later


def _as_nobody(pipe, name):
    asyncio.run(asyncio.sleep(0))  # imports what asyncio needs: the other user may not be able to read it
    assert ringfeed.Client
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    return _ask_without_threads(pipe, name)


def test_where_no_thread_can_be_started_the_waiting_thread_collects_or_an_error_says_so(ring_name, start):
    if os.getuid() != 0:
        pytest.skip("only root becomes another user, whose processes are few enough to count")
    said, rows, again, alone, later = start(_as_nobody, ring_name).result()
    assert len(said) == 3
    for text in said:
        assert "could not be started" in text
        assert "pids.max" in text
    assert (rows, again, alone, later) == (list(range(40)), [5], 3, 6)


@pytest.fixture
def storm():
    """Return a function that has a signal handler called again and again in the main thread."""
    before = signal.getsignal(signal.SIGALRM)

    def begin(handler, seconds=0.0003):
        def handle(*_):
            handler()
            signal.setitimer(signal.ITIMER_REAL, seconds)  # not reached after an error, so that the test shows it alone

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield begin
    # In this order: otherwise a handler that runs in between sets the timer again, and the signal ends the process.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", ["submit", "rows", "predict"])
def test_a_signal_handler_may_ask_while_the_main_thread_asks_and_starts_the_thread(
    ring, plain_engine, make_client, storm, what
):
    plain_engine.open()
    state = {"answers": 0, "client": None}

    def handle():
        client = state["client"]
        if client is None:
            return
        if what == "submit":
            assert int(client.submit(x_of(4), timeout=30).result()) == 4
        elif what == "rows":
            assert client.predict(rows_of([5, 6]), timeout=30).tolist() == [5, 6]
        else:
            assert int(client.predict(x_of(7), timeout=30)) == 7
        state["answers"] += 1

    storm(handle)
    turn = 0
    while turn < 30 or state["answers"] < 30:
        with ringfeed.Client(ring, max_in_flight=4) as client:
            state["client"] = client
            assert int(client.submit(x_of(turn), timeout=30).result()) == turn
            assert client.predict(rows_of([turn, 2]), timeout=30).tolist() == [turn, 2]
            state["client"] = None
        turn += 1


def test_a_signal_handler_may_close_the_client_at_any_moment(ring, plain_engine, make_client, storm):
    plain_engine.open()
    state = {"client": None, "closed": 0}

    def handle():
        if state["client"] is not None:
            state["client"].close()
            state["closed"] += 1

    delay = 0.0
    while state["closed"] < 60:
        delay = (delay + 0.000037) % 0.002
        client = state["client"] = ringfeed.Client(ring)
        storm(handle, 0.00005 + delay)
        try:
            while True:
                for turn in range(50):
                    assert int(client.submit(x_of(turn), timeout=30).result()) == turn
                    assert client.predict(rows_of([turn, 2]), timeout=30).tolist() == [turn, 2]
        except ringfeed.RingClosed:
            pass
        finally:
            state["client"] = None
            signal.setitimer(signal.ITIMER_REAL, 0)
    wait_until(lambda: not answer_threads())


def test_ctrl_c_in_a_wait_for_a_future_reaches_the_main_thread(ring, plain_engine, make_client):
    client = make_client(ring)
    future = client.submit(x_of(1))

    def interrupt():
        wait_until(lambda: "result" in names_of_main_thread())
        os.kill(os.getpid(), signal.SIGINT)

    with in_thread(interrupt), pytest.raises(KeyboardInterrupt):
        future.result()
    plain_engine.open()
    assert int(future.result(timeout=30)) == 1


def names_of_main_thread():
    frame, names = sys._current_frames()[threading.main_thread().ident], []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def test_threads_that_use_a_client_for_the_first_time_after_a_fork_share_one_collector(ring, plain_engine, make_client):
    plain_engine.open()
    client = make_client(ring, max_in_flight=16)
    held = client.submit(x_of(1))
    assert int(held.result(timeout=30)) == 1
    for _ in range(5):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _ask_in_threads(client)
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert int(client.submit(x_of(2)).result(timeout=30)) == 2


def _ask_in_threads(client):
    together, right, states, collectors = threading.Barrier(8), [], set(), set()

    def ask(number):
        together.wait()
        states.add(client._state)
        right.append(int(client.submit(x_of(number), timeout=30).result()) == number)
        right.append(client.predict(rows_of([number, 1]), timeout=30).tolist() == [number, 1])
        collectors.add(client._session.collector)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0 if right == [True] * 16 and len(states) == len(collectors) == 1 else 2


def test_a_future_of_the_parent_says_so_in_a_forked_child(ring, plain_engine, make_client):
    client = make_client(ring)
    future = client.submit(x_of(1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            future.result()
        except ringfeed.RingFeedError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    plain_engine.open()
    assert int(future.result(timeout=30)) == 1
