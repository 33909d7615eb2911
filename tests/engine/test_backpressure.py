"""Requests that wait for room: they block no event loop, can be cancelled, and do not poll.

No model is needed: the engine is `plain_engine.PlainEngine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from plain_engine import PlainEngine
from serving import rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.client.reply_pool import PoolSettings
from support import in_thread, wait_until

QUEUE_OF_TWO = PoolSettings(single_output=True, max_queue_size=2)


@pytest.fixture
def engine(ring):
    with PlainEngine(ring, cells=64) as made:
        yield made


async def is_full(ring):
    while ring.ready < ring.slots:
        await asyncio.sleep(0.001)


def ask_number(client, number):
    return client.apredict(x_of(number), timeout=60)


def ask_rows_number(client, number):
    return client.apredict_rows(rows_of([number, 1]), timeout=60)


@pytest.mark.parametrize("ask", [ask_number, ask_rows_number])
@pytest.mark.parametrize("why", ["the ring is full", "max_in_flight", "max_queue_size"])
def test_the_loops_default_executor_is_free_while_coroutines_wait_for_room(ring, make_client, ask, why):
    with PlainEngine(ring, QUEUE_OF_TWO if why == "max_queue_size" else None, cells=64) as engine:
        client = make_client(ring, max_in_flight=3 if why == "max_in_flight" else 256)

        async def ask_all():
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            asking = [asyncio.ensure_future(ask(client, number)) for number in range(40)]
            await asyncio.sleep(0)
            while not ring.ready:
                await asyncio.sleep(0.001)
            # No request can go on before the engine does.
            found = await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
            assert await asyncio.get_running_loop().run_in_executor(None, sum, (1, 2)) == 3
            assert not any(task.done() for task in asking)
            engine.open()
            answers = await asyncio.gather(*asking)
            return found[0][4][0], [int(answer if answer.ndim == 0 else answer[0]) for answer in answers]

        assert asyncio.run(ask_all()) == ("127.0.0.1", list(range(40)))
        wait_until_free(ring, client._session.pool)


@pytest.mark.parametrize("ask", [ask_number, ask_rows_number])
def test_a_hundred_cancelled_tasks_do_not_keep_the_loop_and_leave_nothing(ring, engine, make_client, ask):
    client = make_client(ring)

    async def cancel_all():
        asking = [asyncio.ensure_future(ask(client, number)) for number in range(100)]
        await is_full(ring)
        for task in asking:
            task.cancel()
        return await asyncio.gather(*asking, return_exceptions=True)

    # The engine takes no record: if `asyncio.run` waited for a request, it would not return.
    assert {type(each) for each in asyncio.run(cancel_all())} == {asyncio.CancelledError}
    engine.open()
    assert client.predict(x_of(5), timeout=60) == 5
    assert asyncio.run(ask_number(client, 6)) == 6
    wait_until_free(ring, client._session.pool)


def test_a_loop_that_ends_with_tasks_that_wait_for_room_ends_at_once(ring, engine, make_client):
    client = make_client(ring)

    async def leave():
        tasks = [asyncio.ensure_future(ask_number(client, number)) for number in range(50)]
        await is_full(ring)
        assert not any(task.done() for task in tasks)

    asyncio.run(leave())
    engine.open()
    assert client.predict(x_of(5), timeout=60) == 5


def test_a_cancelled_request_delays_no_later_one(ring, engine, make_client):
    client = make_client(ring)

    async def ask_some():
        asking = [asyncio.ensure_future(ask_number(client, number)) for number in range(20)]
        await is_full(ring)
        for task in asking[8:12]:  # the first ones that wait
            task.cancel()
        engine.open()
        return await asyncio.gather(*asking, return_exceptions=True)

    answers = asyncio.run(ask_some())
    assert [type(each) for each in answers[8:12]] == [asyncio.CancelledError] * 4
    assert [int(each) for each in answers[:8] + answers[12:]] == [*range(8), *range(12, 20)]


def test_each_request_that_waits_for_room_fails_after_its_own_timeout(ring, engine, make_client):
    client = make_client(ring)

    async def ask_late():
        patient = [asyncio.ensure_future(ask_number(client, number)) for number in range(10)]
        await is_full(ring)
        late = [client.apredict(x_of(1), timeout=0.05 + number / 100) for number in range(10)]
        late.append(client.apredict(rows_of([1, 2]), timeout=0.1))
        failed = await asyncio.gather(*late, return_exceptions=True)
        assert not any(task.done() for task in patient)
        engine.open()
        await asyncio.gather(*patient)
        return failed

    assert {type(each) for each in asyncio.run(ask_late())} <= {ringfeed.RingFull, ringfeed.DeadlineExceeded}


@pytest.mark.parametrize("end", ["the engine ends", "the client is closed"])
def test_a_wait_for_room_on_the_loop_ends_with_engine_or_client(ring, make_client, end):
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(PlainEngine(ring, cells=64))
        client = make_client(ring)

        async def ask_all():
            asking = [asyncio.ensure_future(client.apredict(x_of(number))) for number in range(20)]
            await is_full(ring)
            if end == "the engine ends":
                await asyncio.to_thread(stack.close)
            else:
                await asyncio.to_thread(client.close)
            return await asyncio.gather(*asking, return_exceptions=True)

        kind = ringfeed.EngineDied if end == "the engine ends" else ringfeed.RingClosed
        assert {type(each) for each in asyncio.run(ask_all())} == {kind}
        assert engine.batch_rows == []


def test_an_urgent_request_does_not_wait_behind_others(make_ring, make_client):
    ring = make_ring(slots=8, priorities=2)
    with PlainEngine(ring, cells=64) as engine:
        client = make_client(ring)

        async def ask_all():
            slow = [asyncio.ensure_future(client.apredict(x_of(number), priority=1)) for number in range(20)]
            while ring.levels[1].ready < 8:
                await asyncio.sleep(0.001)
            urgent = asyncio.ensure_future(client.apredict_rows(rows_of([7, 8]), priority=0))
            while ring.levels[0].ready < 2:  # it was put, although the others still wait
                await asyncio.sleep(0.001)
            engine.open()
            assert (await urgent).tolist() == [7, 8]
            assert [int(await each) for each in slow] == list(range(20))

        asyncio.run(ask_all())


# ---- max_queue_size ------------------------------------------------------------------------------------


def processor_ns(threads):
    return sum(int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) for thread in threads)


def test_threads_that_wait_for_a_bounded_queue_use_almost_no_processor_time(make_ring, make_client):
    ring = make_ring(slots=64)
    with PlainEngine(ring, QUEUE_OF_TWO) as engine:
        client = make_client(ring)
        answers = []
        threads = [
            threading.Thread(target=lambda number=number: answers.append(int(client.predict(x_of(number)))))
            for number in range(40)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: ring.ready >= 2)
        before, woken = processor_ns(threads), threading.Event()
        woken.wait(1.0)  # this measures a time
        used = processor_ns(threads) - before
        engine.open()
        for thread in threads:
            thread.join()
        assert sorted(answers) == list(range(40))
        # Measured: 1.5 % of one core for 40 threads, which check for engines every 50 ms; polling took 67 %.
        assert used < 0.2e9


def test_each_row_taken_wakes_one_waiting_client(make_ring, make_client):
    ring = make_ring(slots=64)
    with PlainEngine(ring, QUEUE_OF_TWO) as engine:
        client = make_client(ring)
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(in_thread(client.predict, x_of(number))) for number in range(40)]
            wait_until(lambda: ring.ready >= 2)
            engine.open()
        assert sorted(int(each.result()) for each in waiting) == list(range(40))
        # Two wait, and two more may have come in at the same moment. Each row that is taken wakes one sleeping client.
        assert max(engine.batch_rows[1:]) <= 16


# ---- max_queue_size of an engine that rejects ----------------------------------------------------------


@pytest.mark.parametrize("ask", [ask_number, ask_rows_number])
def test_a_request_that_waits_for_max_in_flight_is_not_rejected_if_the_queue_has_room(ring, make_client, ask):
    with PlainEngine(ring, PoolSettings(single_output=True, max_queue_size=8, rejects=True), cells=64) as engine:
        client = make_client(ring, max_in_flight=2)  # of at most four rows

        async def ask_all():
            asking = [asyncio.ensure_future(ask(client, number)) for number in range(10)]
            while not ring.ready:
                await asyncio.sleep(0.001)
            engine.open()
            return await asyncio.gather(*asking)

        answers = asyncio.run(ask_all())
        assert [int(answer if answer.ndim == 0 else answer[0]) for answer in answers] == list(range(10))
        futures = [client.submit(x_of(number), timeout=60) for number in range(10)]
        assert [int(future.result()) for future in futures] == list(range(10))


@pytest.mark.parametrize("why", ["max_queue_size", "no time to wait"])
def test_a_request_without_a_wait_is_rejected_at_once_on_the_loop_too(ring, make_client, why):
    with PlainEngine(ring, PoolSettings(single_output=True, max_queue_size=2, rejects=True), cells=64) as engine:
        client = make_client(ring, max_in_flight=256 if why == "max_queue_size" else 2)

        async def ask_all():
            first = [asyncio.ensure_future(ask_number(client, number)) for number in range(2)]
            while ring.ready < 2:
                await asyncio.sleep(0.001)
            with pytest.raises(ringfeed.RingFull, match=why if why == "max_queue_size" else "max_in_flight"):
                await client.apredict(x_of(3), timeout=60 if why == "max_queue_size" else 0)
            assert not any(task.done() for task in first)
            engine.open()
            return await asyncio.gather(*first)

        assert [int(answer) for answer in asyncio.run(ask_all())] == [0, 1]
