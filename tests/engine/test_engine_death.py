"""Engines are killed by SIGKILL, or stopped: no client waits in vain, and no request is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import pytest
from serving import Logs, Spares, first_number, logged, rows_of, two_outputs, wait_until_free, x_of

import ringfeed
from ringfeed.testing import ManualPolicy
from support import in_thread, numbers, record, states, wait_until

PROCESSES = 6


@pytest.fixture(scope="module")
def spares():
    spares = Spares(PROCESSES)
    yield spares
    spares.end()


@pytest.fixture
def engine(spares, make_ring):
    """Return a function that takes a process for an engine; engines that live at the end are stopped and used again."""
    taken = []

    def take():
        taken.append(spares.take())
        return taken[-1]

    yield take
    for each in taken:
        if each.child.process.poll() is None:
            each.stop()
            spares.give(each)


def ask_in_all_ways(client):
    """Return a function for each way of asking; it waits for the answer."""

    def await_it(inputs):
        return asyncio.run(client.apredict(inputs))

    return {
        "predict": lambda: client.predict(x_of(1)),
        "predict with a timeout": lambda: client.predict(x_of(1), timeout=60),
        "predict of rows": lambda: client.predict(rows_of([1, 2])),
        "submit": lambda: client.submit(x_of(1)).result(),
        "submit of rows": lambda: client.submit(rows_of([1, 2])).result(),
        "apredict": lambda: await_it(x_of(1)),
        "apredict of rows": lambda: await_it(rows_of([1, 2])),
    }


def waits(ways, end):
    """Ask in all ways, each in a thread, and call `end`. Returns each outcome, and how long after `end` it came."""
    found = {}

    def wait(name, ask):
        try:
            found[name] = ask(), time.monotonic()
        except ringfeed.RingFeedError as error:
            found[name] = error, time.monotonic()

    threads = [threading.Thread(target=wait, args=way, daemon=True) for way in ways.items()]
    for thread in threads:
        thread.start()
    ended = end()
    for thread in threads:
        thread.join()
    return {name: (outcome, at - ended) for name, (outcome, at) in found.items()}


def when_all_wait(ring, requests):
    """Wait until the ring holds this many requests, and an engine has taken some of them."""
    wait_until(lambda: sum(states(ring).get(state, 0) for state in ("ready", "taken")) == requests)
    wait_until(lambda: "taken" in states(ring))


def test_every_kind_of_wait_ends_when_the_only_engine_is_killed(
    make_ring, engine, make_client, tmp_path, record_property
):
    ring = make_ring(slots=32)
    only = engine().serve(ring, Logs(str(tmp_path / "log"), stuck=1), batch_size=4)
    client = make_client(ring.name)
    ways = ask_in_all_ways(client)

    def kill():
        when_all_wait(ring, len(ways) + 3)
        now = time.monotonic()
        only.child.kill()
        return now

    for name, (outcome, seconds) in waits(ways, kill).items():
        assert isinstance(outcome, ringfeed.EngineDied), name
        assert ring.name in str(outcome)
        record_property(name, f"{1e3 * seconds:.0f} ms")
    engine().serve(ring)
    assert client.predict(x_of(5), timeout=30) == 5
    wait_until_free(ring, client._session.pool)


def test_what_a_stopped_engine_has_taken_is_answered_and_every_other_wait_ends(make_ring, engine, make_client):
    ring = make_ring(slots=32)
    only = engine().serve(ring, manual=2)
    client = make_client(ring.name)
    taken = [client.submit(x_of(1)), client.submit(x_of(2))]
    only.do("release", 2)
    assert [future.result() for future in taken] == [1, 2]

    def stop():
        wait_until(lambda: states(ring).get("ready") == 10)
        now = time.monotonic()
        only.tell("stop")
        return now

    for name, (outcome, _) in waits(ask_in_all_ways(client), stop).items():
        assert isinstance(outcome, ringfeed.EngineDied), name
    only.hear()
    only.serve(ring)
    assert client.predict(x_of(5), timeout=30) == 5
    wait_until_free(ring, client._session.pool)


def test_a_wait_for_room_ends_with_the_only_engine(make_ring, engine, make_client):
    ring = make_ring(slots=8)
    only = engine().serve(ring, manual=8, reply_cells=24)
    client = make_client(ring.name)
    for number in range(8):
        ring.put(record(number))
    ways = ask_in_all_ways(client)

    def stop():
        wait_until(lambda: client._session.pool.cells.stats()["claimed"] >= len(ways))
        before = ring.stats()["claim_wait_ns"]
        wait_until(lambda: ring.stats()["claim_wait_ns"] > before + 10_000_000)
        only.tell("stop")
        return time.monotonic()

    for name, (outcome, _) in waits(ways, stop).items():
        assert isinstance(outcome, ringfeed.EngineDied), name
    only.hear()
    with ring.take(8) as batch:
        assert numbers(batch) == list(range(8))


def test_a_wait_for_a_reply_cell_ends_with_the_only_engine(make_ring, engine, make_client):
    ring = make_ring(slots=256)
    only = engine().serve(ring, manual=8, reply_cells=1)
    client = make_client(ring.name)
    cells = client._session.pool.cells
    futures = [client.submit(x_of(number)) for number in range(cells.slots)]

    def stop():
        wait_until(lambda: cells.stats()["claim_wait_ns"])
        only.tell("stop")
        return time.monotonic()

    for name, (outcome, _) in waits(ask_in_all_ways(client), stop).items():
        assert isinstance(outcome, ringfeed.EngineDied), name
    only.hear()
    assert all(isinstance(future.exception(), ringfeed.EngineDied) for future in futures)


def test_patient_clients_wait_for_a_restarted_engine_which_answers_each_request_once(
    make_ring, engine, make_client, tmp_path
):
    ring = make_ring(slots=16)
    log = tmp_path / "log"
    first = engine().serve(ring, Logs(str(log), stuck=13), batch_size=4)
    client = make_client(ring.name, if_engine_dies="wait")
    answers = []
    futures = [client.submit(x_of(number)) for number in range(1, 16)]
    for future in futures:
        future.add_done_callback(lambda future: answers.append(int(future.result())))
    with (
        in_thread(client.predict, x_of(16)) as last,
        in_thread(lambda: asyncio.run(client.apredict(x_of(17)))) as next_,
    ):
        wait_until(lambda: 13 in logged(log))
        first.child.kill()
        before = list(answers)
        assert 13 not in before
        wait_until(lambda: client._session.pool.engines() == 0)
        engine().serve(ring, Logs(str(log)), batch_size=4)
        assert (last.result(), next_.result()) == (16, 17)
        assert sorted(int(future.result()) for future in futures) == list(range(1, 16))
    assert sorted(answers) == list(range(1, 16))
    runs = Counter(logged(log))
    assert set(runs) == set(range(1, 18))
    twice = {number for number, count in runs.items() if count > 1}
    assert 13 in twice
    assert len(twice) <= 4, "only the batch over which it died is run again"
    assert max(runs.values()) == 2
    wait_until_free(ring, client._session.pool)


def test_without_redelivery_requests_that_a_dead_engine_had_taken_fail_and_others_are_answered(
    make_ring, engine, make_client, tmp_path
):
    ring = make_ring(slots=16, redeliver=False)
    log = tmp_path / "log"
    first = engine().serve(ring, Logs(str(log), stuck=13), batch_size=2)
    client = make_client(ring.name, if_engine_dies="wait")
    with in_thread(client.predict, x_of(13)) as waits_alone:
        wait_until(lambda: 13 in logged(log))
        futures = [client.submit(x_of(number)) for number in range(1, 6)]
        first.child.kill()
        with pytest.raises(ringfeed.EngineDied, match="redeliver=False"):
            waits_alone.result()
    engine().serve(ring, Logs(str(log)))
    assert [future.result() for future in futures] == list(range(1, 6))
    assert Counter(logged(log)) == Counter([13, *range(1, 6)])
    wait_until_free(ring, client._session.pool)


def test_of_two_engines_one_is_killed_and_the_other_answers_all(make_ring, engine, make_client, tmp_path):
    ring = make_ring(slots=16)
    log = tmp_path / "log"
    made_the_cells = engine().serve(ring, Logs(str(log), stuck=13), batch_size=1)
    client = make_client(ring.name)
    stuck = client.submit(x_of(13))
    wait_until(lambda: 13 in logged(log))
    other = engine().serve(ring, first_number, same_model=False)
    assert client.predict(rows_of(range(40))).tolist() == list(range(40))
    made_the_cells.child.kill()
    assert stuck.result() == 13
    assert client.predict(rows_of(range(40))).tolist() == list(range(40))
    late = ringfeed.Client(ring.name)
    assert late.predict(x_of(3)) == 3
    late.close()
    wait_until(lambda: other.do("stats").rows >= 82)  # the engine counts rows after it answered them
    wait_until_free(ring, client._session.pool)


def test_a_ring_that_dies_with_its_engine_is_opened_anew(ring_name, engine, make_client):
    create = {"fields": {"x": ((512,), "int64")}, "slots": 8}
    first = engine().serve(ring_name, manual=8, create=create)
    client, patient = make_client(ring_name), make_client(ring_name, if_engine_dies="wait")
    futures = [client.submit(x_of(1)), patient.submit(x_of(1))]
    first.child.kill()
    for future in futures:  # also for if_engine_dies="wait": no engine can come back to that ring
        assert isinstance(future.exception(), ringfeed.EngineDied)
    engine().serve(ring_name, create=create)
    for each in (client, patient):
        assert each.predict(x_of(4), timeout=30) == 4
        assert each.submit(x_of(5)).result() == 5
        assert asyncio.run(each.apredict(rows_of([6, 7]))).tolist() == [6, 7]


def test_an_engine_with_other_outputs_may_replace_one_that_is_gone(make_ring, engine, make_client):
    ring = make_ring(slots=8)
    only = engine().serve(ring, manual=8)
    client, patient = make_client(ring.name), make_client(ring.name, if_engine_dies="wait")
    waiting = patient.submit(x_of(3))
    only.stop()
    with pytest.raises(ringfeed.EngineDied):
        client.predict(x_of(1))
    only.serve(ring, two_outputs)
    assert client.predict(x_of(2)) == {"number": 2, "twice": 4}
    assert isinstance(waiting.exception(), ringfeed.EngineDied)
    assert patient.predict(x_of(2), timeout=30) == {"number": 2, "twice": 4}


def test_an_engine_with_other_outputs_than_a_living_one_is_refused(ring, serve):
    serve(ring)
    with pytest.raises(ringfeed.LayoutMismatch, match="a living engine answers with"):
        serve(ring, two_outputs)


def test_a_request_to_a_stopped_engine_is_not_answered_by_the_next_one(ring, serve, make_client):
    first = serve(ring, policy=ManualPolicy(8))
    old = make_client(ring.name).submit(x_of(3))
    first.stop()
    assert isinstance(old.exception(), ringfeed.EngineDied)
    policy = ManualPolicy(8)
    serve(ring, two_outputs, policy=policy)
    new = make_client(ring.name).submit(x_of(7))
    policy.release(2)
    assert new.result() == {"number": 7, "twice": 14}
