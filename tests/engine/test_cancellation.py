"""Requests that never reach the model: their deadline has passed, or their client has cancelled them."""

from __future__ import annotations

import asyncio
import time

import pytest
from serving import rows_of, wait_until_free, x_of

import ringfeed
from support import in_thread, record, wait_until


def test_a_request_whose_deadline_has_passed_is_answered_so_and_never_run(ring, manual):
    engine, policy, client, seen = manual
    late = [client.submit(x_of(1), timeout=0.01), client.submit(x_of(2))]
    with pytest.raises(ringfeed.DeadlineExceeded, match="no answer within the timeout"):
        late[0].result()
    with pytest.raises(ringfeed.DeadlineExceeded, match="had not begun"):
        client.predict(x_of(3), timeout=0.01)
    policy.release(3)
    assert late[1].result() == 2
    assert seen.batches == [[2]]
    assert engine.stats().withdrawn == 2
    wait_until_free(ring, client._session.pool)


def test_the_engine_answers_a_late_request_when_it_takes_it(ring, manual):
    engine, policy, client, seen = manual
    pool = client._session.pool
    reply = pool.ask(ring, record(1), 0, time.monotonic_ns(), None, False, False)
    policy.release(1)
    assert reply.wait(2**63 - 1, False)
    assert reply.outcome(0)[0] == ringfeed._core.LATE
    assert seen.batches == []
    wait_until(lambda: engine.stats().expired == 1)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_future_that_is_cancelled_never_reaches_the_model(ring, manual, place):
    engine, policy, client, seen = manual
    futures = [client.submit(x_of(number)) for number in range(4)]
    assert futures[place].cancel()
    policy.release(4)
    left = [number for number in range(4) if number != place]
    assert [futures[number].result() for number in left] == left
    assert seen.rows() == left
    assert engine.stats().withdrawn == 1
    wait_until_free(ring, client._session.pool)


def test_a_task_that_is_cancelled_never_reaches_the_model(ring, manual):
    _, policy, client, seen = manual

    async def ask_and_cancel():
        tasks = [asyncio.create_task(client.apredict(x_of(number))) for number in range(4)]
        while ring.ready < 4:
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        policy.release(4)
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(ask_and_cancel())
    assert isinstance(answers.pop(1), asyncio.CancelledError)
    assert answers == [0, 2, 3]
    assert 1 not in seen.rows()
    wait_until_free(ring, client._session.pool)


def test_a_task_that_is_cancelled_while_it_waits_for_room_never_reaches_the_model(ring, manual, make_client):
    _, policy, client, seen = manual
    narrow = make_client(ring.name, max_in_flight=1)
    first = narrow.submit(x_of(1))

    async def ask_and_cancel():
        task = asyncio.create_task(narrow.apredict(x_of(2)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        policy.release(1)
        await asyncio.wrap_future(first)

    asyncio.run(ask_and_cancel())
    with in_thread(client.predict, x_of(3)) as last:
        wait_until(lambda: last.done() or (ring.ready and policy.release(1)))
        assert last.result() == 3
    wait_until_free(ring, client._session.pool)
    assert 2 not in seen.rows()


def test_a_request_that_is_cancelled_while_the_model_runs_is_dropped(ring, manual):
    _, policy, client, seen = manual
    seen.may_go_on.clear()
    futures = [client.submit(x_of(number)) for number in range(2)]
    policy.release(2)
    wait_until(lambda: seen.batches)
    assert futures[0].cancel()
    seen.may_go_on.set()
    assert futures[1].result() == 1
    wait_until_free(ring, client._session.pool)


def test_cancelling_rows_cancels_all_of_them(ring, manual):
    _, policy, client, seen = manual
    future = client.submit(rows_of(range(4)))
    assert future.cancel()
    with in_thread(client.predict, x_of(9)) as last:
        wait_until(lambda: ring.ready == 5)
        policy.release(5)
        assert last.result() == 9
    assert seen.batches == [[9]]
    wait_until_free(ring, client._session.pool)
