"""An error of a model, or of an engine's thread, reaches exactly the requests concerned; the engine goes on."""

from __future__ import annotations

import asyncio
import gc
import logging

import numpy as np
import pytest
import tensorflow as tf
from serving import first_number, rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.testing import ManualPolicy
from support import record, states, wait_until

FOUR_AT_A_TIME = 4


def refuses_thirteen(x):
    """Fail over a batch if one of its rows is 13."""
    numbers = x[:, 0]
    thirteen = tf.constant(13, tf.int64)
    with tf.control_dependencies([tf.debugging.assert_none_equal(numbers, thirteen, message="unlucky row")]):
        return tf.identity(numbers)


def outcomes(futures):
    return [future.exception() or int(future.result()) for future in futures]


@pytest.fixture
def four(ring, serve, make_client):
    """Return a client, and a function that asks for four numbers, which the engine runs as one batch."""
    policies = []

    def start(model, **options):
        policies.append(ManualPolicy(FOUR_AT_A_TIME, **options))
        engine = serve(ring, model, policy=policies[-1], allow_row_mixing=True)
        client = make_client(ring.name)

        def ask(numbers):
            futures = [client.submit(x_of(number)) for number in numbers]
            policies[-1].release(len(futures))
            return outcomes(futures)

        return engine, client, ask

    return start


@pytest.mark.parametrize("allowed", [None, [4]], ids=["as many rows as there are", "padded"])
def test_a_row_that_fails_fails_alone_and_with_the_models_words(ring, four, allowed):
    engine, client, ask = four(refuses_thirteen, allowed_batch_sizes=allowed)
    for place in range(4):
        numbers = [1, 2, 3, 4]
        numbers[place] = 13
        answers = ask(numbers)
        error = answers.pop(place)
        assert isinstance(error, ringfeed.ModelError)
        assert "InvalidArgumentError" in str(error)
        assert "unlucky row" in str(error)
        assert ring.name in str(error)
        del numbers[place]
        assert answers == numbers
    assert ask([5, 6, 7, 8]) == [5, 6, 7, 8]
    assert engine.stats().failed == 4
    wait_until_free(ring, client._session.pool)


def test_a_model_that_always_fails_answers_each_request_with_its_error_and_stays_in_service(ring, serve, make_client):
    def fails(x):
        one = tf.constant(1, tf.int64)
        with tf.control_dependencies([tf.debugging.assert_less(x[:, 0], one, message="never right")]):
            return tf.identity(x[:, 0])

    engine = serve(ring, fails)
    client = make_client(ring.name)
    for _ in range(3):
        with pytest.raises(ringfeed.ModelError, match="never right"):
            client.predict(x_of(5), timeout=10)
    with pytest.raises(ringfeed.ModelError, match="never right"):
        client.predict(rows_of([0, 5, 0]))
    with pytest.raises(ringfeed.ModelError, match="never right"):
        asyncio.run(client.apredict(x_of(5)))
    assert client.predict(x_of(0)) == 0
    assert engine.running
    wait_until_free(ring, client._session.pool)


def test_a_record_of_a_plain_producer_that_fails_is_counted_and_logged_and_affects_no_other(ring, four, caplog):
    engine, _, ask = four(refuses_thirteen)
    with caplog.at_level(logging.WARNING, "ringfeed.engine"):
        ring.put(record(13))
        engine.policy.release(1)
        assert ask([1, 2]) == [1, 2]
    assert engine.stats().failed == 1
    assert any(ring.name in message and "unlucky row" in message for message in caplog.messages)


def test_many_failures_are_logged_a_few_times(ring, four, caplog):
    _, _, ask = four(refuses_thirteen)
    with caplog.at_level(logging.WARNING, "ringfeed.engine"):
        for _ in range(20):
            ask([13] * 4)
    assert 3 <= len(caplog.messages) <= 10


def test_outputs_of_another_shape_are_an_error_that_names_both(ring, serve, make_client):
    def widens(x):
        return tf.cond(x[0, 0] < 5, lambda: x[:, :2], lambda: x[:, :3])

    serve(ring, widens)
    client = make_client(ring.name)
    assert client.predict(x_of(1)).tolist() == [1, 1]
    with pytest.raises(ringfeed.ModelError, match=r"output 'output' is int64\[1, 3\] for 1 rows.*int64\[1, 2\]"):
        client.predict(x_of(7))
    assert client.predict(x_of(2)).tolist() == [2, 2]


@pytest.mark.parametrize("factor", [2, 0])
def test_more_or_fewer_rows_than_there_were_are_an_error(ring, serve, make_client, factor):
    def repeats(x):
        return tf.repeat(x[:, 0], tf.where(x[:, 0] < 5, 1, factor))

    serve(ring, repeats)
    client = make_client(ring.name)
    assert client.predict(x_of(1)) == 1
    with pytest.raises(ringfeed.ModelError, match=rf"returned int64\[{factor}\] for 1 rows"):
        client.predict(x_of(7))


def test_a_thread_with_an_unexpected_error_answers_the_requests_that_it_holds_and_goes_on(
    ring, serve, make_client, caplog
):
    class Breaks:
        def __init__(self, answers):
            self.answers = answers

        def deliver(self, requests, outputs, start, stop):
            if outputs[0][0] == 13:
                raise SystemError("a bug in the engine") if requests.rows == 1 else MemoryError
            self.answers.deliver(requests, outputs, start, stop)

    engine = serve(ring)
    replica = engine._replicas[0]
    replica._delivery = Breaks(replica._delivery)
    client = make_client(ring.name)
    with pytest.raises(ringfeed.ModelError, match="a bug in the engine"):
        client.predict(x_of(13), timeout=10)
    assert client.predict(x_of(1), timeout=10) == 1
    replica._isolation._on_failure = lambda *_: 1 / 0
    with caplog.at_level(logging.ERROR):
        with pytest.raises(ringfeed.ModelError, match="the engine failed: ZeroDivision"):
            client.predict(x_of(13), timeout=10)
        wait_until(lambda: "a batch could not be served" in caplog.text)
    assert client.predict(x_of(1), timeout=10) == 1
    wait_until_free(ring, client._session.pool)


def test_a_thread_that_ends_by_itself_is_logged_and_its_clients_are_told(ring, serve, make_client, caplog):
    engine = serve(ring)
    client = make_client(ring.name)
    assert client.predict(x_of(1)) == 1

    def exits(*_):
        raise SystemExit

    engine._replicas[0].serve = exits
    with caplog.at_level(logging.ERROR), pytest.raises((ringfeed.EngineDied, ringfeed.ModelError)):
        client.predict(x_of(1), timeout=10)
    wait_until(lambda: not engine.running)
    assert f"ring '{ring.name}': the thread that serves CPU:0 ends" in caplog.text
    with pytest.raises(ringfeed.EngineDied, match="no engine is left"):
        client.predict(x_of(1), timeout=10)


def test_the_memory_of_a_batch_that_failed_is_given_back_at_once(ring, four):
    _, _, ask = four(refuses_thirteen)
    gc.disable()
    try:
        for _ in range(5):
            ask([13, 1, 13, 2])
            wait_until(lambda: states(ring) == {"free": 8})
    finally:
        gc.enable()


# ---- Out of memory -----------------------------------------------------------------------------------


def out_of_memory_above(rows):
    """Return a model for which a device has too little memory above a number of rows."""

    def model(x):
        def look(given):
            if len(given) > rows:
                raise MemoryError(f"no memory for {len(given)} rows")  # TensorFlow raises its own error for it
            return given

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))

    return model


def test_a_batch_that_memory_does_not_suffice_for_is_split_answered_and_not_tried_again(ring, serve, make_client):
    policy = ManualPolicy(8)
    engine = serve(ring, out_of_memory_above(3), policy=policy)
    assert (engine.stats().memory_limit_rows, engine.stats().out_of_memory) == (4, 1)  # already during the warm-up
    client = make_client(ring.name)
    for _ in range(2):
        futures = [client.submit(x_of(number)) for number in range(8)]
        policy.release(8)
        assert outcomes(futures) == list(range(8))
    stats = engine.stats()
    assert (stats.memory_limit_rows, stats.out_of_memory) == (2, 2)
    assert set(stats.batch_sizes) == {2}
    assert stats.failed == 0


def test_the_batches_that_are_taken_keep_to_the_memory_limit(ring, serve, make_client):
    engine = serve(ring, out_of_memory_above(2), batch_size=8)
    client = make_client(ring.name)
    assert client.predict(rows_of(range(60))).tolist() == list(range(60))
    assert max(engine.stats().batch_sizes) <= 2
    assert engine.stats().memory_limit_rows == 2


def test_a_single_row_that_memory_does_not_suffice_for_fails_with_that_word(ring, serve, make_client):
    def model(x):
        def look(given):
            if given[0] == 13:
                raise MemoryError
            return given

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))

    serve(ring, model)
    client = make_client(ring.name)
    with pytest.raises(ringfeed.ModelError, match="ResourceExhausted"):
        client.predict(x_of(13))
    assert client.predict(x_of(1)) == 1
    assert np.asarray(first_number(rows_of([1])))[0] == 1
