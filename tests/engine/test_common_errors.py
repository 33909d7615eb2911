"""An error over a batch: common to all rows it costs few calls, else it reaches exactly the rows that cause it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf
from serving import Broken, no_session, wait_until_free, x_of

import ringfeed
from ringfeed.testing import ManualPolicy
from ringfeed.workers.common_failure import have_same_text, rows_to_probe


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
    assert guessed == [number for number in range(64) if number not in rows_to_probe(64)]
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
def test_rows_that_do_not_fail_are_answered_whichever_others_fail(make_ring, serve, make_client, bad):
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
def test_the_rows_to_probe_are_few_and_spread(rows):
    told = rows_to_probe(rows)
    assert told == sorted(set(told))
    assert told[0] == 0
    assert told[-1] == rows - 1
    assert len(told) <= max(np.log2(rows), 0) + 4
    assert have_same_text([]) and have_same_text([ValueError("a"), ValueError("a")])  # noqa: PT018
    assert not have_same_text([ValueError("a"), TypeError("a")])
