"""`ringfeed.Pipeline`: a model in stages, joined by rings."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import ringfeed
from support import wait_until

ROWS = np.random.default_rng(3).random((37, 12), np.float32)


def unchanged(x: tf.Tensor) -> tf.Tensor:
    return tf.identity(x)


def one_more(x: tf.Tensor) -> tf.Tensor:
    return x + 1


def twice(x: tf.Tensor) -> tf.Tensor:
    return x * 2


def branching_model(seed: int) -> keras.Model:
    """Return a random model with skip connections, two inputs and two outputs."""
    random = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    left, right = keras.Input((12,), name="left"), keras.Input((12,), name="right")
    known = [left, right]
    for number in range(6):
        one, other = (known[random.integers(len(known))] for _ in range(2))
        joined = keras.layers.Concatenate()([one, other])
        known.append(keras.layers.Dense(int(random.integers(3, 9)), "tanh", name=f"layer_{number}")(joined))
    return keras.Model(
        {"left": left, "right": right}, {"first": known[-1], "second": known[int(random.integers(2, 7))]}
    )


def possible_cuts(model: keras.Model, wanted: int) -> list[keras.Model]:
    """Return the stages of a model, cut at layers at which a cut is possible."""
    for start in range(6):
        try:
            return ringfeed.split_model(model, at=[f"layer_{start + number}" for number in range(wanted)])
        except ValueError:
            continue
    raise AssertionError("this model has no such cut: choose another seed")


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_a_pipeline_gives_what_the_whole_model_gives(seed: int) -> None:
    model = branching_model(seed)
    inputs = {"left": ROWS, "right": ROWS[::-1].copy()}
    whole = model.predict(inputs, verbose=0)
    with ringfeed.Pipeline(possible_cuts(model, 2), batch_size=[4, 7, 16]) as pipeline:
        answer = pipeline.predict(inputs)
    assert set(answer) == set(whole)
    for name in whole:
        np.testing.assert_allclose(answer[name], whole[name], rtol=1e-5, atol=1e-6)


def test_stages_are_replicated_where_they_have_several_devices() -> None:
    model = branching_model(1)
    inputs = {"left": ROWS, "right": ROWS}
    whole = model.predict(inputs, verbose=0)
    stages = possible_cuts(model, 1)
    with ringfeed.Pipeline(stages, devices=["CPU:0", ["CPU:0", "CPU:0"]], batch_size=4) as pipeline:
        answer = pipeline.predict(inputs)
        wait_until(lambda: all(stage.rows == len(ROWS) for stage in pipeline.stats()))
        first, second = pipeline.stats()
    # Requests wait for a slot before the first stage, and are answered by the last.
    assert (first.phases["slot"].count, second.phases["slot"].count) == (len(ROWS), 0)
    assert (first.phases["total"].count, second.phases["total"].count) == (0, len(ROWS))
    assert second.devices == ("CPU:0", "CPU:0")
    np.testing.assert_allclose(answer["first"], whole["first"], rtol=1e-5, atol=1e-6)


def stage_that_fails_at_seven(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.assert_none_equal(x, 7.0, message="a seven")]):
        return x + 1


def test_an_error_in_a_later_stage_reaches_exactly_its_request(make_ring: Any) -> None:
    ring = make_ring({"x": ((1,), "float32")}, slots=64)
    stages = [unchanged, stage_that_fails_at_seven]
    with ringfeed.Pipeline(stages, ring=ring) as pipeline, ringfeed.Client(ring) as client:
        futures = [client.submit(np.float32([number])) for number in range(10)]
        for number, future in enumerate(futures):
            if number == 7:
                with pytest.raises(ringfeed.ModelError, match="a seven"):
                    future.result()
            else:
                assert future.result() == number + 1
        assert sum(stats.failed for stats in pipeline.stats()) == 1


def test_tags_and_records_that_want_no_answer_go_through_all_stages(make_ring: Any) -> None:
    ring = make_ring({"x": ((1,), "float32")}, slots=64)
    with ringfeed.Pipeline([one_more, twice], ring=ring, structure="x") as pipeline:
        ring.put({"x": np.float32([3])}, tag=5)
        wait_until(lambda: pipeline.stats()[1].rows == 1)


def slowly(x: tf.Tensor) -> tf.Tensor:
    """Take longer than clients wait before they check whether an engine lives."""

    def wait(y: tf.Tensor) -> tf.Tensor:
        threading.Event().wait(0.15)
        return y

    return tf.ensure_shape(tf.py_function(wait, [x], tf.float32), (None, 1))


def test_draining_a_slow_later_stage_answers_what_it_has(make_ring: Any) -> None:
    ring = make_ring({"x": ((1,), "float32")}, slots=64)
    pipeline = ringfeed.Pipeline([one_more, slowly], ring=ring, batch_size=[16, 4]).start()
    with ringfeed.Client(ring) as client:
        futures = [client.submit(np.float32([number])) for number in range(12)]
        assert pipeline.drain(timeout=30)
        assert [float(future.result()[0]) for future in futures] == [number + 1.0 for number in range(12)]


def test_a_finished_ring_ends_all_stages_when_all_is_answered(make_ring: Any) -> None:
    ring = make_ring({"x": ((1,), "float32")}, slots=64)
    with ringfeed.Pipeline([one_more, slowly], ring=ring) as pipeline, ringfeed.Client(ring) as client:
        futures = [client.submit(np.float32([number])) for number in range(5)]
        ring.finish()
        assert pipeline.wait(timeout=30)
        assert [float(future.result()[0]) for future in futures] == [number + 1.0 for number in range(5)]


def test_draining_answers_what_is_under_way(make_ring: Any) -> None:
    ring = make_ring({"x": ((1,), "float32")}, slots=64)
    pipeline = ringfeed.Pipeline([one_more, twice], ring=ring, batch_size=4).start()
    with ringfeed.Client(ring) as client:
        futures = [client.submit(np.float32([number])) for number in range(50)]
        assert pipeline.drain(timeout=30)
        assert [float(future.result()[0]) for future in futures] == [2.0 * (number + 1) for number in range(50)]


def test_stages_that_do_not_fit_each_other_are_named() -> None:
    first = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="first")
    second = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)], name="second")
    with pytest.raises(ValueError, match="stage 1 of the pipeline, model 'second'"):
        ringfeed.Pipeline([first, second]).start()


def test_a_model_that_does_not_say_what_it_takes_needs_a_ring() -> None:
    with pytest.raises(ValueError, match="give it as ring="):
        ringfeed.Pipeline([unchanged])


def test_options_of_another_number_than_stages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size.*2 stages"):
        ringfeed.Pipeline([unchanged, unchanged], batch_size=[1, 2, 3])


def test_requests_of_a_ring_without_redelivery_cannot_be_handed_on(make_ring: Any) -> None:
    ring = make_ring({"x": ((1,), "float32")}, redeliver=False)
    with pytest.raises(ValueError, match="redeliver=True"):
        ringfeed.Pipeline([one_more, twice], ring=ring)


# ---- Across processes --------------------------------------------------------------------------------


def serve_second_stage(pipe: Any) -> None:
    """Serve the second stage until the test says so."""
    ring_name, next_name = pipe.hear()
    with (
        ringfeed.Ring.attach(ring_name) as ring,
        ringfeed.Ring.attach(next_name) as next_ring,
        ringfeed.StageEngine(next_ring, twice, linger=0.0, first_ring=ring),
    ):
        pipe.tell("serving")
        pipe.hear()


def test_stages_in_two_processes_answer_and_outlive_a_kill_of_the_second(make_ring: Any, start: Any) -> None:
    ring = make_ring({"x": ((1,), "float32")}, slots=64)
    next_ring = make_ring({"output": ((1,), "float32")}, slots=64)
    names = ring.name, next_ring.name
    child = start(serve_second_stage)
    child.tell(names)
    assert child.told() == "serving"
    with (
        ringfeed.StageEngine(ring, one_more, linger=0.0, next_ring=next_ring),
        ringfeed.Client(ring, if_engine_dies="wait") as client,
    ):
        assert client.predict(np.float32([4])) == 10
        child.kill()
        futures = [client.submit(np.float32([number])) for number in range(20)]
        child = start(serve_second_stage)
        child.tell(names)
        assert child.told() == "serving"
        assert [float(future.result()[0]) for future in futures] == [2.0 * (number + 1) for number in range(20)]
        child.kill()
        with ringfeed.Client(ring) as impatient, pytest.raises(ringfeed.EngineDied):
            impatient.predict(np.float32([1]))
