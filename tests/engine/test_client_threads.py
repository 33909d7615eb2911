"""The thread that collects a client's answers: nothing ends it, and no wait is for ever where it cannot be.

No model is needed: the engine is `plain_engine.PlainEngine`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from plain_engine import PlainEngine
from serving import rows_of, x_of

import ringfeed
from ringfeed.client.reply_pool import PoolSettings
from support import in_thread, wait_until


@pytest.fixture
def engine(ring):
    with PlainEngine(ring) as made:
        yield made


def answer_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ringfeed-answers-")]


class OddEnd(BaseException):
    """What no library knows."""


ENDS = [SystemExit, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, OddEnd, ValueError]


@pytest.mark.parametrize("kind", ENDS)
def test_no_exception_of_a_callback_ends_the_collector_nor_the_callbacks_behind_it(ring, engine, make_client, kind):
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
    engine.open()
    assert [int(future.result(timeout=30)) for future in [first, *others]] == [1, 2, 3, 4]
    wait_until(lambda: seen.count("failed") == 2 and 1 in seen)
    assert int(client.submit(x_of(7)).result(timeout=30)) == 7
    assert client.predict(rows_of([8, 9]), timeout=30).tolist() == [8, 9]
    assert answer_threads() == [worker]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_in_the_users_own_thread_raises_there(ring, engine, make_client, kind):
    client = make_client(ring)

    def fail(_):
        raise kind

    future = client.submit(x_of(1))
    future.add_done_callback(fail)
    with pytest.raises(kind):
        future.cancel()
    engine.open()
    assert int(client.submit(x_of(2)).result(timeout=30)) == 2


def test_a_callback_may_close_its_client_and_what_is_under_way_fails(ring, engine, make_client):
    client, other = make_client(ring), make_client(ring)
    closed = threading.Event()

    def close(_):
        other.close()
        client.close()
        closed.set()

    first = client.submit(x_of(1), timeout=30)
    first.add_done_callback(close)
    engine.open()
    assert int(first.result()) == 1
    closed.wait()
    wait_until(lambda: not answer_threads())
    for each in (client, other):
        with pytest.raises(ringfeed.RingClosed):
            each.submit(x_of(2))


def test_callbacks_that_close_each_others_clients_do_not_wait_for_each_other(ring, engine, make_client):
    one, two = make_client(ring), make_client(ring)
    both = threading.Barrier(2)
    closed = []

    def close(other):
        both.wait()
        other.close()
        closed.append(other)

    one.submit(x_of(1)).add_done_callback(lambda _: close(two))
    two.submit(x_of(1)).add_done_callback(lambda _: close(one))
    engine.open()
    wait_until(lambda: len(closed) == 2)


@pytest.mark.parametrize("kind", [SystemExit, OddEnd])
def test_a_collector_into_which_an_exception_is_raised_goes_on(ring, engine, make_client, kind):
    client = make_client(ring)
    futures = [client.submit(x_of(number)) for number in range(5)]
    (worker,) = answer_threads()
    for _ in range(3):
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(kind)) == 1
        wait_until(lambda: not pending_exception(worker))
    engine.open()
    assert [int(future.result(timeout=30)) for future in futures] == list(range(5))


def pending_exception(thread):
    # It is raised when the thread runs Python code, which it does at least every 50 ms.
    time.sleep(0.06)
    return False


def test_a_callback_that_never_returns_keeps_nobody_else(ring, engine, make_client):
    client = make_client(ring)
    release, entered = threading.Event(), threading.Event()

    def hang(_):
        entered.set()
        release.wait()

    client.submit(x_of(1)).add_done_callback(hang)
    engine.open()
    entered.wait()
    try:
        assert int(client.submit(x_of(2)).result()) == 2
        assert client.submit(x_of(3), timeout=30).exception() is None
        assert client.predict(rows_of(range(40)), timeout=30).tolist() == list(range(40))
        assert asyncio.run(client.apredict(x_of(5))) == 5
        engine.close_gate()
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
        engine.open()
        assert int(client.predict(x_of(8), timeout=30)) == 8
    finally:
        release.set()
    assert int(client.submit(x_of(9)).result(timeout=30)) == 9


def test_a_future_whose_lock_someone_holds_keeps_nobody_else(ring, engine, make_client):
    client = make_client(ring)
    held, other = client.submit(x_of(1)), client.submit(x_of(2))
    with held._condition:  # as one does that a signal handler interrupts in `result` or `add_done_callback`
        engine.open()
        with in_thread(other.result) as answer:
            pass
        assert int(answer.result()) == 2
    assert int(held.result(timeout=30)) == 1


# ---- Threads that cannot be started --------------------------------------------------------------------


def _ask_without_threads(pipe, name):
    """Be another user, for root is not held to limits, and have as many processes as that one may have."""
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
    asyncio.run(asyncio.sleep(0))  # what is imported later, another user may not be able to read
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


# ---- Signals -------------------------------------------------------------------------------------------


@pytest.fixture
def storm():
    """Return a function that has a handler called again and again in the main thread, whatever that does."""
    before = signal.getsignal(signal.SIGALRM)

    def begin(handler, seconds=0.0003):
        def handle(*_):
            handler()
            signal.setitimer(signal.ITIMER_REAL, seconds)  # not behind an error, which is to be seen alone

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield begin
    # In this order: a handler that comes in between would set the timer again, and the signal then end the process.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", ["submit", "rows", "predict"])
def test_a_signal_handler_may_ask_while_the_main_thread_asks_and_starts_the_thread(
    ring, engine, make_client, storm, what
):
    engine.open()
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


def test_a_signal_handler_may_close_the_client_at_any_moment(ring, engine, make_client, storm):
    engine.open()
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


def test_ctrl_c_in_a_wait_for_a_future_reaches_the_main_thread(ring, engine, make_client):
    client = make_client(ring)
    future = client.submit(x_of(1))

    def interrupt():
        wait_until(lambda: "result" in names_of_main_thread())
        os.kill(os.getpid(), signal.SIGINT)

    with in_thread(interrupt), pytest.raises(KeyboardInterrupt):
        future.result()
    engine.open()
    assert int(future.result(timeout=30)) == 1


def names_of_main_thread():
    frame, names = sys._current_frames()[threading.main_thread().ident], []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


# ---- Forks ---------------------------------------------------------------------------------------------


def test_threads_that_use_a_client_for_the_first_time_after_a_fork_share_one_collector(ring, engine, make_client):
    engine.open()
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


def test_a_future_of_the_parent_says_so_in_a_forked_child(ring, engine, make_client):
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
    engine.open()
    assert int(future.result(timeout=30)) == 1


# ---- What was replaced ---------------------------------------------------------------------------------

WAYS = {
    "predict": lambda client: client.predict(x_of(1), timeout=60),
    "predict of rows": lambda client: client.predict(rows_of([1, 2]), timeout=60),
    "submit": lambda client: client.submit(x_of(1), timeout=60).result(),
    "submit_rows": lambda client: client.submit_rows(rows_of([1, 2]), timeout=60).result(),
    "an exception of a future": lambda client: throw(client.submit(x_of(1), timeout=60).exception()),
    "apredict": lambda client: throw(asyncio.run(error_of(client.apredict(x_of(1), timeout=60)))),
    "apredict_rows": lambda client: throw(asyncio.run(error_of(client.apredict_rows(rows_of([1, 2]), timeout=60)))),
}


async def error_of(answer):
    """Return what a coroutine raises: in its own frames, and a task that ends with an error is a circle itself."""
    try:
        await answer
    except ringfeed.EngineDied as error:
        return error.with_traceback(None)


def throw(error):
    if error is not None:
        raise error


def maps_of_cells(ring):
    return sum(f"{ring.name}.replies" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.fixture
def without_garbage_collection():
    """What lies in a circle stays, as it does for long in a program that makes little garbage."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
@pytest.mark.usefixtures("without_garbage_collection")
def test_the_cells_of_engines_that_were_replaced_go_with_them(ring, make_client, ask):
    def ask_until_it_dies():
        with contextlib.suppress(ringfeed.EngineDied):
            while True:
                ask(client)

    client, kept, counts = None, [], []
    for number in range(4):
        with PlainEngine(ring, PoolSettings(bare=True, max_queue_size=10 + number)) as engine:  # other cells each time
            engine.open()
            client = client or make_client(ring)
            while True:
                with contextlib.suppress(ringfeed.EngineDied):
                    ask(client)
                    kept.append(client.submit(x_of(3), timeout=60))
                    assert int(kept[-1].result()) == 3
                    break
            engine.close_gate()
            thread = threading.Thread(target=ask_until_it_dies)
            thread.start()
            wait_until(lambda: ring.ready)
        thread.join()
        wait_until(lambda: not answer_threads())
        counts.append(maps_of_cells(ring))
    assert counts == counts[:1] * 4
