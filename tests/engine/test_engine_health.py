"""Engines that fail, for a moment or for good: memory that comes back, black holes, errors common to all rows."""

from __future__ import annotations

import contextlib
import logging
import threading

import numpy as np
import pytest
import tensorflow as tf
from serving import first_number, rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.engine import memory_limit
from ringfeed.engine.circuit_breaker import CircuitBreaker
from ringfeed.engine.memory_limit import MemoryLimit
from ringfeed.testing import ManualPolicy
from ringfeed.workers.blame import are_alike, telling_rows
from support import Child, wait_until


class Broken:
    """A model that counts its calls, and fails them while it is told to; `why` says how, given the numbers."""

    def __init__(self, why=None):
        self.why = why
        self.calls: list[list[int]] = []

    def __call__(self, x):
        def look(numbers):
            given = numbers.numpy().tolist()
            self.calls.append(given)
            if self.why is not None:
                self.why(given)
            return numbers

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))


def no_session(given):
    raise RuntimeError("the session is broken")


def outcomes(client, numbers):
    futures = [client.submit(x_of(number), timeout=60) for number in numbers]
    return [future.exception() or int(future.result()) for future in futures]


# ---- Memory --------------------------------------------------------------------------------------------


def test_the_memory_limit_rises_again_when_there_is_memory_again(make_ring, serve, make_client):
    ring = make_ring(slots=64)
    most = [64]

    def short_of_memory(given):
        if len(given) > most[0]:
            raise MemoryError

    engine, client = serve(ring, Broken(short_of_memory), batch_size=32), make_client(ring)
    most[0] = 1
    assert client.predict(rows_of(range(64))).tolist() == list(range(64))
    assert engine.stats().memory_limit_rows == 1
    most[0] = 64

    def is_back():
        assert client.predict(rows_of(range(64))).tolist() == list(range(64))
        return engine.stats().memory_limit_rows == 32

    wait_until(is_back)
    assert engine.stats().failed == 0


def test_trials_that_fail_come_more_and_more_seldom(monkeypatch):
    monkeypatch.setattr(memory_limit, "_PROBE_SECONDS", 1e9)
    found = MemoryLimit(32)
    found.record_out_of_memory(32)
    trials = []
    for batch in range(1000):
        if found.next_rows > found.rows:
            trials.append(batch)
            found.record_out_of_memory(found.next_rows)
        else:
            found.record_fit(found.rows)
    assert found.rows == 16
    gaps = np.diff(trials)
    assert (gaps[1:] >= gaps[:-1]).all()
    assert len(trials) <= 7


@pytest.mark.parametrize("most", [1, 2, 3, 7, 32])
def test_the_memory_limit_never_exceeds_its_cap(monkeypatch, most):
    monkeypatch.setattr(memory_limit, "_PROBE_BATCHES", 0)
    found = MemoryLimit(32)
    found.cap(most)
    found.record_out_of_memory(most)
    for _ in range(10):
        assert 1 <= found.next_rows <= most
        found.record_fit(found.next_rows)
    assert found.rows == most


# ---- An error common to all rows -----------------------------------------------------------------------


@pytest.mark.parametrize("why", ["a broken session", "a wrong dtype", "too few rows"])
def test_an_error_common_to_all_rows_costs_few_calls(make_ring, serve, make_client, why):
    ring, model, policy = make_ring(slots=64), Broken(), ManualPolicy(64)
    broken = threading.Event()

    def call(x):
        numbers = model(x)
        if why == "a wrong dtype":

            def text(value):
                return np.array("x") if broken.is_set() else value.numpy()

            numbers = tf.ensure_shape(tf.py_function(text, [numbers], tf.int64), (None,))
        if why == "too few rows":

            def cut(value):
                return value[: len(value) - 1] if broken.is_set() else value

            numbers = tf.ensure_shape(tf.py_function(cut, [numbers], tf.int64), (None,))
        return numbers

    serve(ring, call, policy=policy)
    client = make_client(ring)
    model.calls.clear()
    broken.set()
    model.why = no_session if why == "a broken session" else None
    futures = [client.submit(x_of(number)) for number in range(64)]
    policy.release(64)
    errors = [future.exception(timeout=60) for future in futures]
    assert {type(error) for error in errors} == {ringfeed.ModelError}
    assert len(model.calls) <= 2 * 6 + 4
    guessed = [number for number, error in enumerate(errors) if "was not run alone" in str(error)]
    assert guessed == [number for number in range(64) if number not in telling_rows(64)]
    assert all("as 9 of the 64 rows of its batch did" in str(errors[number]) for number in guessed)
    model.why = None
    broken.clear()
    future = client.submit(x_of(7))
    policy.release(1)
    assert int(future.result(timeout=60)) == 7
    wait_until_free(ring, client._session.pool)


@pytest.mark.parametrize(
    "bad",
    [{0}, {63}, {31}, {0, 63}, set(range(63)), set(range(1, 64)), {n for n in range(64) if n % 3}, set(range(32))],
)
def test_rows_that_are_right_are_answered_whichever_others_fail(make_ring, serve, make_client, bad):
    ring, policy = make_ring(slots=64), ManualPolicy(64)

    def unlucky(given):
        for number in given:
            if number in bad:
                raise ValueError(f"{number} is refused")

    model = Broken()
    serve(ring, model, policy=policy)
    model.why = unlucky
    client = make_client(ring)
    futures = [client.submit(x_of(number)) for number in range(64)]
    policy.release(64)
    for number, future in enumerate(futures):
        if number in bad:
            assert f"{number} is refused" in str(future.exception(timeout=60))
        else:
            assert int(future.result(timeout=60)) == number


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 63, 64, 1000])
def test_the_telling_rows_are_few_and_spread(rows):
    told = telling_rows(rows)
    assert told == sorted(set(told))
    assert told[0] == 0
    assert told[-1] == rows - 1
    assert len(told) <= max(np.log2(rows), 0) + 4
    assert are_alike([]) and are_alike([ValueError("a"), ValueError("a")])  # noqa: PT018
    assert not are_alike([ValueError("a"), TypeError("a")])


# ---- Health --------------------------------------------------------------------------------------------


def test_of_two_engines_one_that_fails_everything_leaves_the_work_to_the_other(make_ring, serve, make_client, caplog):
    ring = make_ring(slots=64)
    bad, good = Broken(), Broken()
    serve(ring, bad, batch_size=1)
    serve(ring, good, batch_size=1)
    bad.why = no_session
    client = make_client(ring)
    answers = outcomes(client, [number % 50 for number in range(240)])
    failed = [answer for answer in answers if isinstance(answer, ringfeed.ModelError)]
    assert len(failed) <= 12
    assert [a for a in answers if not isinstance(a, Exception)] == [
        n % 50 for n, a in enumerate(answers) if not isinstance(a, Exception)
    ]
    assert "fails every request" in caplog.text
    bad.why = None
    bad.calls.clear()
    with caplog.at_level(logging.WARNING):
        wait_until(lambda: outcomes(client, range(8)) == list(range(8)) and "answers again" in caplog.text)


def test_an_engine_that_fails_everything_and_is_alone_answers_each_with_its_error(ring, serve, make_client):
    model = Broken()
    serve(ring, model, batch_size=8)
    client = make_client(ring)
    model.why = no_session
    for _ in range(3):
        assert {type(each) for each in outcomes(client, range(20))} == {ringfeed.ModelError}
    model.why = None
    assert outcomes(client, range(20)) == list(range(20))


def test_two_engines_that_fail_everything_answer_each_and_never_hang(ring, serve, make_client):
    models = [Broken(), Broken()]
    for model in models:
        serve(ring, model, batch_size=4)
    for model in models:
        model.why = no_session
    client = make_client(ring)
    for _ in range(3):
        kinds = {type(each) for each in outcomes(client, range(20))}
        assert kinds <= {ringfeed.ModelError, ringfeed.EngineDied}
    for model in models:
        model.why = None
    wait_until(lambda: outcomes(client, range(20)) == list(range(20)))


def test_one_that_rests_takes_over_when_the_other_stops(ring, serve, make_client):
    bad, good = Broken(), Broken()
    serve(ring, bad, batch_size=1)
    other = serve(ring, good, batch_size=1)
    client = make_client(ring)
    bad.why = no_session
    wait_until(lambda: client._session.pool.engines() == 1 or not outcomes(client, range(8)))
    bad.why = None
    other.stop()

    def answers():
        with contextlib.suppress(ringfeed.EngineDied):
            return client.predict(x_of(5), timeout=60) == 5
        return False

    wait_until(answers)


def test_a_circuit_breaker_backs_off_longer_each_time_and_closes_at_once():
    breaker = CircuitBreaker()
    assert [breaker.record_failure(1) for _ in range(4)] == [False, False, True, False]
    first = breaker.backoff_seconds
    for _ in range(20):
        breaker.record_failure(1)
    assert first < breaker.backoff_seconds <= 30
    assert breaker.record_success()
    assert not breaker.is_open
    assert breaker.backoff_seconds == 0


# ---- Stages that are gone ------------------------------------------------------------------------------


def add(value):
    return lambda x: x + value


def test_an_engine_that_takes_over_from_a_pipeline_serves_while_and_after_it_ends(make_ring, serve, make_client):
    ring = make_ring({"x": ((4,), "float32")})
    ones = np.ones(4, np.float32)
    pipeline = ringfeed.Pipeline([add(1), add(2)], ring=ring).start()
    client = make_client(ring)
    assert client.predict(ones).tolist() == [4] * 4
    engine = serve(ring, add(3), same_model=False)
    pipeline.stop()
    for _ in range(3):
        assert client.predict(ones, timeout=60).tolist() == [4] * 4
    with ringfeed.Pipeline([add(2), add(1)], ring=ring, same_model=False):
        engine.stop()
        assert client.predict(ones, timeout=60).tolist() == [4] * 4
    with pytest.raises(ringfeed.EngineDied):
        client.predict(ones, timeout=60)


def test_a_stage_whose_next_ring_closed_says_that_it_serves_no_more(make_ring, serve, make_client):
    first, second = make_ring({"x": ((4,), "float32")}), make_ring({"output": ((4,), "float32")})
    serve(second, add(1), kind=ringfeed.StageEngine, first_ring=first)
    stage = serve(first, add(1), kind=ringfeed.StageEngine, next_ring=second)
    client = make_client(first)
    assert client.predict(np.ones(4, np.float32)).tolist() == [3] * 4
    second.close()
    with pytest.raises(ringfeed.EngineDied):
        client.predict(np.ones(4, np.float32), timeout=60)
    wait_until(lambda: not stage.running)


@pytest.mark.parametrize("how", ["close", "finish"])
def test_a_stage_whose_next_ring_ended_serves_no_more_though_nobody_asks(make_ring, serve, make_client, how):
    first, second = make_ring({"x": ((4,), "float32")}), make_ring({"output": ((4,), "float32")})
    serve(second, add(1), kind=ringfeed.StageEngine, first_ring=first)
    stage = serve(first, add(1), kind=ringfeed.StageEngine, next_ring=second)
    getattr(second, how)()
    wait_until(lambda: not stage.running)
    with pytest.raises(ringfeed.RingFeedError):
        make_client(first).predict(np.ones(4, np.float32), timeout=60)


def own_a_ring(pipe, name):
    with ringfeed.Ring.create(name, {"output": ((4,), "float32")}, 8):
        pipe.tell("made")
        pipe.hear()


def test_a_stage_whose_next_rings_owner_is_killed_serves_no_more_though_nobody_asks(make_ring, serve, ring_name):
    first, name = make_ring({"x": ((4,), "float32")}), f"{ring_name}-next"
    owner = Child(own_a_ring, name)
    assert owner.told() == "made"
    with ringfeed.Ring.attach(name) as second, ringfeed.StageEngine(second, add(1), first_ring=first):
        pass  # the pool of the last stage is there
    with ringfeed.Ring.attach(name) as second:
        stage = serve(first, add(1), kind=ringfeed.StageEngine, next_ring=second)
        owner.kill()
        wait_until(lambda: not stage.running)
    ringfeed.clean(f"{ring_name}*")


# ---- What clients are told -----------------------------------------------------------------------------


@pytest.mark.parametrize("detail", ["full", "short"])
def test_an_errors_text_stays_in_the_log_where_it_is_asked_for(ring, serve, make_client, caplog, detail):
    def secret(given):
        raise ValueError("the path is /srv/models/secret.keras")

    model = Broken()
    serve(ring, model, error_detail=detail)
    model.why = secret
    with pytest.raises(ringfeed.ModelError) as caught:
        make_client(ring).predict(x_of(1), timeout=60)
    text = str(caught.value)
    assert ("/srv/models/secret.keras" in text) == (detail == "full")
    assert "InvalidArgumentError" in text
    assert "/srv/models/secret.keras" in caplog.text
    if detail == "short":
        number = text.split("has error ")[1]
        assert f"error {number}:" in caplog.text


def test_an_error_detail_that_is_none_is_named(ring):
    with pytest.raises(ValueError, match='error_detail=\'long\': give "full" or "short"'):
        ringfeed.Engine(ring, first_number, error_detail="long")


@pytest.mark.parametrize("names", [["__error__"], ["__error__", "__error___"], ["__error___", "y"]])
def test_an_output_may_have_the_name_of_the_error_text(ring, serve, make_client, names):
    serve(ring, lambda x: {name: x[:, 0] + number for number, name in enumerate(names)})
    answer = make_client(ring).predict(x_of(3), timeout=60)
    assert {name: int(answer[name]) for name in answer} == {name: 3 + number for number, name in enumerate(names)}
    with pytest.raises(ringfeed.DeadlineExceeded):
        make_client(ring).predict(x_of(3), timeout=0)
