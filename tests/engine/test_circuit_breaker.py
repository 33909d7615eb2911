"""An engine that fails every request leaves them to other engines, and tries again later."""

from __future__ import annotations

import contextlib
import logging

from serving import Broken, no_session, outcomes, x_of

import ringfeed
from ringfeed.engine.circuit_breaker import CircuitBreaker
from support import wait_until


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


def test_an_engine_that_has_left_takes_over_when_the_other_stops(ring, serve, make_client):
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
