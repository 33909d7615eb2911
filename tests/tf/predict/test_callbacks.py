"""Callbacks, `model.stop_predicting` and progress without workers are those of `keras.Model.predict`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_zoo import X, assert_same, small_model

from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.predict.callbacks import PredictCallbacks
from ringfeed.tf.predict.in_memory import predict_in_memory

pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:x ran out of data")


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def runner(model: Any) -> ModelRunner:
    return ModelRunner(model)


class Recorder(keras.callbacks.Callback):
    """Records its calls, and stops the model at a batch."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.outputs: list[Any] = []
        self.stop_after = stop_after

    def set_params(self, params: Any) -> None:
        super().set_params(params)
        self.events.append(("params", params))

    def on_predict_begin(self, logs: Any = None) -> None:
        self.events.append(("begin", logs, self.model.stop_predicting))

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch begin", batch, logs))

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch end", batch, sorted(logs)))
        self.outputs.append(logs["outputs"])
        if batch == self.stop_after:
            self.model.stop_predicting = True

    def on_predict_end(self, logs: Any = None) -> None:
        self.events.append(("end", logs))


class Batches(keras.utils.PyDataset):
    def __init__(self, length: int | None = 7, **options: Any) -> None:
        super().__init__(**options)
        self.length = length

    @property
    def num_batches(self) -> int | None:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return (X[10 * index % 70 : 10 * index % 70 + 10],)


def batches() -> Iterator[Any]:
    return ((X[start : start + 10],) for start in range(0, 70, 10))


def dataset() -> Any:
    return tf.data.Dataset.from_tensor_slices(X).batch(10)


def loader() -> Any:
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X)), batch_size=10)


KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "array": (lambda: X, {"batch_size": 10}),
    "array with steps": (lambda: X, {"batch_size": 10, "steps": 5}),
    "array with too many steps": (lambda: X, {"batch_size": 10, "steps": 9}),
    "array with steps alone": (lambda: X, {"steps": 7}),
    "generator": (batches, {}),
    "generator with steps": (batches, {"steps": 5}),
    "endless generator": (lambda: ((X[:10],) for _ in itertools.count()), {"steps": 6}),
    "dataset": (dataset, {}),
    "dataset of unknown length": (lambda: dataset().filter(lambda _: True), {}),
    "endless dataset": (lambda: dataset().repeat(), {"steps": 6}),
    "pydataset": (Batches, {}),
    "pydataset read by threads": (lambda: Batches(workers=2), {}),
    "endless pydataset": (lambda: Batches(None), {"steps": 6}),
    "loader": (loader, {}),
}


def recorded(predict: Any, kind: str, stop_after: int | None = None, **options: Any) -> tuple[Any, Recorder]:
    """Return the outputs of a `predict` for a kind of data, and the calls of a callback."""
    make, own = KINDS[kind]
    recorder = Recorder(stop_after)
    return predict(make(), verbose=0, callbacks=[recorder], **own, **options), recorder


def ours(runner: ModelRunner) -> Any:
    return lambda *arguments, **options: predict_in_memory(runner, *arguments, **options)


# ---- The calls of callbacks  -------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [None, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_get_the_calls_of_keras(model: Any, runner: ModelRunner, kind: str, stop_after: int | None) -> None:
    expected, theirs = recorded(model.predict, kind, stop_after)
    outputs, mine = recorded(ours(runner), kind, stop_after)
    assert mine.events == theirs.events
    assert_same(outputs, expected)
    assert len(outputs) == (expected.shape[0] if stop_after is None else 10 * (stop_after + 1))
    for output, expected_output in zip(mine.outputs, theirs.outputs, strict=True):
        assert type(output) is type(expected_output)
    np.testing.assert_array_equal(np.concatenate(mine.outputs), outputs)


@pytest.fixture(scope="module", params=[3, 50])
def several_at_a_time(request: pytest.FixtureRequest) -> tuple[Any, ModelRunner]:
    model = small_model()
    model.compile(steps_per_execution=request.param)
    return model, ModelRunner(model)


@pytest.mark.parametrize("stop_after", [None, 2])
@pytest.mark.parametrize("kind", ["array with steps", "array with too many steps", "dataset", "pydataset"])
def test_steps_per_execution_counts_in_the_numbers_of_batches(
    several_at_a_time: tuple[Any, ModelRunner], kind: str, stop_after: int | None
) -> None:
    model, runner = several_at_a_time
    expected, theirs = recorded(model.predict, kind, stop_after)
    outputs, mine = recorded(ours(runner), kind, stop_after)
    assert mine.events == theirs.events
    assert_same(outputs, expected)
    for output, expected_output in zip(mine.outputs, theirs.outputs, strict=True):
        assert_same(np.asarray(output), np.asarray(expected_output))


@pytest.mark.parametrize("verbose", ["auto", 0, 1, 2])
def test_callbacks_have_the_params_that_keras_gives_them(
    model: Any, runner: ModelRunner, verbose: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = Recorder(), Recorder()
    model.predict(X, 16, verbose=verbose, callbacks=[theirs])
    predict_in_memory(runner, X, 16, verbose=verbose, callbacks=[mine])
    assert mine.params == theirs.params == {"verbose": verbose, "epochs": 1, "steps": 5}


def test_a_list_of_callbacks_that_was_made_before_is_used_as_it_is(model: Any, runner: ModelRunner) -> None:
    recorder = Recorder(1)
    callbacks = keras.callbacks.CallbackList([recorder], model=model, steps=17)
    assert len(predict_in_memory(runner, X, 16, callbacks=callbacks)) == 32
    assert recorder.events[0] == ("params", {"steps": 17})


def test_a_single_callback_needs_no_list(model: Any, runner: ModelRunner) -> None:
    recorder = Recorder(0)
    assert len(predict_in_memory(runner, X, 16, callbacks=recorder)) == 16


# ---- stop_predicting ---------------------------------------------------------------------------------


def stops_in_a_thread(model: Any, data: Any, after: int) -> Iterator[Any]:
    """Yield batches; another thread stops the model before the last batch is yielded."""
    for number, batch in enumerate(data):
        if number == after:
            thread = threading.Thread(target=lambda: setattr(model, "stop_predicting", True))
            thread.start()
            thread.join()
        yield batch


@pytest.mark.parametrize("callbacks", [None, [], [keras.callbacks.Callback()]], ids=["None", "[]", "one"])
@pytest.mark.parametrize("after", [0, 3])
def test_another_thread_stops_after_the_batch(model: Any, runner: ModelRunner, callbacks: Any, after: int) -> None:
    expected = model.predict(X[: 10 * (after + 1)], 10, verbose=0)
    outputs = predict_in_memory(runner, stops_in_a_thread(model, batches(), after), callbacks=callbacks)
    assert_same(outputs, expected)


class StopsItself(keras.Model):
    """A model that runs eagerly, and that another thread stops at its third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.compile(run_eagerly=True)

    def call(self, x: Any) -> Any:
        self.seen += 1
        if self.seen % 3 == 0:
            next(stops_in_a_thread(self, [None], 0))
        return x * 2


@pytest.mark.parametrize("callbacks", [None, []])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "array with steps alone"])
def test_every_kind_of_data_stops_as_in_keras(kind: str, callbacks: Any) -> None:
    make, options = KINDS[kind]
    model = StopsItself()
    outputs = predict_in_memory(ModelRunner(model), make(), verbose=0, callbacks=callbacks, **options)
    assert (len(outputs), model.seen) == (30, 3)
    model = StopsItself()
    assert_same(outputs, model.predict(make(), verbose=0, callbacks=callbacks, **options))


@pytest.mark.parametrize("batch_size", [16, 100])
@pytest.mark.parametrize("callbacks", [None, []])
def test_a_request_to_stop_from_an_earlier_call_is_ignored(
    model: Any, runner: ModelRunner, batch_size: int, callbacks: Any
) -> None:
    model.stop_predicting = True
    assert len(predict_in_memory(runner, X, batch_size, callbacks=callbacks)) == 70
    assert model.stop_predicting is False


def test_nested_outputs_hold_the_rows_so_far() -> None:
    nested = ModelRunner(lambda x: (x, {"sum": tf.reduce_sum(x), "first": x[:1]}))
    rows, of_batches = predict_in_memory(nested, X, 10, callbacks=[Recorder(3)])
    np.testing.assert_array_equal(rows, X[:40])
    assert (of_batches["sum"].shape, of_batches["first"].shape) == ((4,), (4, 7))


def test_a_callback_stops_a_function_too() -> None:
    runner = ModelRunner(lambda x: x * 2)
    np.testing.assert_array_equal(predict_in_memory(runner, X, 10, callbacks=[Recorder(2)]), X[:30] * 2)
    assert len(predict_in_memory(runner, X, 10)) == 70


@pytest.mark.parametrize("callbacks", [None, []])
def test_the_flag_is_checked_without_callbacks(model: Any, callbacks: Any) -> None:
    watchers = PredictCallbacks(model, callbacks, None)
    assert not watchers
    model.stop_predicting = True
    watchers.begin()
    watchers.begin_batch()
    assert watchers.end_batch(X) is False
    model.stop_predicting = True
    watchers.begin_batch()
    assert watchers.end_batch(X) is True
    watchers.end()


def test_with_steps_per_execution_the_flag_is_checked_after_each_execution() -> None:
    model = small_model()
    model.compile(steps_per_execution=3)
    watchers = PredictCallbacks(model, None, None)
    watchers.begin()
    model.stop_predicting = True
    assert [watchers.end_batch(X) for _ in range(6)] == [False, False, True, False, False, True]


# ---- Progress ----------------------------------------------------------------------------------------


def test_progress_is_quiet_without_a_terminal(runner: ModelRunner, capfd: pytest.CaptureFixture[str]) -> None:
    predict_in_memory(runner, X, 16)
    predict_in_memory(runner, X, 16, verbose=0)
    assert capfd.readouterr() == ("", "")


def test_progress_is_a_bar_or_a_line_on_demand(runner: ModelRunner, capfd: pytest.CaptureFixture[str]) -> None:
    predict_in_memory(runner, X, 16, verbose=1)
    assert "5/5" in capfd.readouterr().err
    predict_in_memory(runner, X, 16, verbose=2)
    (line,) = "".join(capfd.readouterr()).strip().splitlines()
    assert line.startswith("5 batches in ")
    assert line.endswith(" batches/s")
    predict_in_memory(runner, X, 100, verbose=2)
    assert "1 batch in " in capfd.readouterr().err


def test_callbacks_that_show_the_progress_replace_the_bar(
    model: Any, runner: ModelRunner, capfd: pytest.CaptureFixture[str]
) -> None:
    predict_in_memory(runner, X, 16, verbose=1, callbacks=[keras.callbacks.ProgbarLogger()])
    output, errors = capfd.readouterr()
    assert "5/5" in output
    assert errors == ""
    predict_in_memory(runner, X, 16, verbose=1, callbacks=keras.callbacks.CallbackList([], model=model))
    assert capfd.readouterr() == ("", "")
