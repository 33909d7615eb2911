"""Errors of the model, and models that keep what they were given: neither holds the ring's slots unsaid."""

from __future__ import annotations

import concurrent.futures
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from preprocessing import row_of_four

import ringfeed
from support import wait_until

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


@pytest.fixture(autouse=True)
def without_garbage_collection() -> Iterator[None]:
    """Keep objects in reference cycles alive, as in a program that makes little garbage."""
    gc.disable()
    yield
    gc.enable()


def checked(x: Any) -> Any:
    return tf.reduce_sum(tf.debugging.check_numerics(x, "a number that is none"), 1)


def too_few_rows(x: Any) -> Any:
    return x[:1]


def every_fourth_is_nan(item: int) -> np.ndarray:
    return np.full((32, 32), np.nan if item % 4 == 1 else item, np.float32)


def test_a_model_that_raises_over_every_batch_gets_all_of_many_batches() -> None:
    inputs = keras.Input((32, 32))
    layer = keras.layers.Lambda(checked)
    with ringfeed.Predictor(
        keras.Model(inputs, layer(inputs)), preprocess=lambda i: every_fourth_is_nan(i), workers=2, on_error="skip"
    ) as p:
        result = p.predict(range(600), verbose=0)
        assert len(p.failures) == 150
        np.testing.assert_array_equal(result[:, 0], [32.0 * i for i in range(600) if i % 4 != 1])


@pytest.mark.parametrize("model", [checked, too_few_rows], ids=["of a row", "of no single row"])
def test_errors_that_a_program_keeps_hold_no_slots(model: Any) -> None:
    with (
        ringfeed.Predictor(
            model, preprocess=lambda i: row_of_four(float("nan") if i == 5 else i), workers=1, batch_size=4, slots=8
        ) as p,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        kept = [pool.submit(p.predict, range(8), verbose=0) for _ in range(6)]
        assert all(future.exception() is not None for future in kept)
        ring = p.ring
        assert ring is not None
        wait_until(lambda: ring.stats()["taken"] == 0)  # TensorFlow releases the slots a moment later


def test_an_error_raised_from_itself_ends() -> None:
    def model(x: Any) -> Any:
        x = np.asarray(x)
        if (x > 2).any():
            try:
                raise ValueError("bad row")
            except ValueError as error:
                raise error from error
        return x * 2

    with ringfeed.Predictor(model, preprocess=row_of_four, workers=0, batch_size=4, on_error="skip") as p:
        with pytest.warns(UserWarning, match="run eagerly"):
            assert p.predict(range(4), verbose=0)[:, 0].tolist() == [0, 2, 4]
        assert [failure.index for failure in p.failures] == [3]


def test_an_eager_model_that_keeps_its_inputs_gets_all_of_many_batches() -> None:
    kept: list[Any] = []

    def model(x: Any) -> Any:
        kept.append(x)
        return np.array(x)

    with ringfeed.Predictor(model, preprocess=row_of_four, workers=1, batch_size=4, slots=8) as p:
        with pytest.warns(UserWarning, match="run eagerly"):
            result = p.predict(range(640), verbose=0)
        np.testing.assert_array_equal(result[:, 0], range(640))
        assert p.ring is not None
        assert p.ring.slots < 640
        assert len(kept) >= 160
