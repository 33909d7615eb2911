from __future__ import annotations

import io
import itertools
import pathlib
import threading
from typing import Any

import numpy as np
import pytest
from decoding import decode

import ringfeed

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (150, 12, 10, 3), np.uint8)


@pytest.fixture(scope="module")
def cnn() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def files(pictures: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def assert_same(actual: Any, expected: Any) -> None:
    """Compare structure, shapes and dtypes exactly, and values up to the order of float32 sums."""
    tf.nest.assert_same_structure(actual, expected)
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 64, 1000])
def test_predict_from_files_equals_keras_on_the_pictures(cnn, files, pictures, batch_size) -> None:
    with ringfeed.Predictor(cnn, preprocess=decode, workers=2) as predictor:
        assert_same(predictor.predict(files, batch_size=batch_size), cnn.predict(pictures, verbose=0))


@pytest.mark.parametrize("form", ["list", "iterator", "array", "dataset", "tensor"])
def test_items_come_in_many_forms(cnn, pictures, form: str) -> None:
    items = {
        "list": lambda: list(pictures),
        "iterator": lambda: iter(pictures),
        "array": lambda: pictures,
        "dataset": lambda: tf.data.Dataset.from_tensor_slices(pictures),
        "tensor": lambda: tf.constant(pictures),
    }[form]()
    with ringfeed.Predictor(cnn, preprocess=lambda picture: picture[::-1], workers=2) as predictor:
        assert_same(predictor.predict(items), cnn.predict(pictures[:, ::-1], verbose=0))


def test_samples_off_64_bytes_are_cut_to_shape() -> None:
    model = keras.Sequential([keras.Input((7, 5)), keras.layers.Flatten(), keras.layers.Dense(3)])
    samples = np.random.default_rng(0).normal(size=(50, 7, 5)).astype(np.float32)
    with ringfeed.Predictor(model, preprocess=lambda i: samples[i], workers=2) as predictor:
        assert_same(predictor.predict(range(50)), model.predict(samples, verbose=0))


def test_float64_samples_are_stored_as_the_model_takes_them(cnn, pictures) -> None:
    with ringfeed.Predictor(cnn, preprocess=lambda picture: picture / 2.0, workers=1) as predictor:
        outputs = predictor.predict(pictures)
        assert predictor.ring.spec["0"].dtype == np.float32
    assert_same(outputs, cnn.predict(pictures / 2.0, verbose=0))


def test_several_inputs_and_outputs_keep_their_structure(pictures) -> None:
    image, number = keras.Input((12, 10, 3), name="image"), keras.Input((2,), name="number")
    features = keras.layers.GlobalAveragePooling2D()(image)
    joined = keras.layers.Concatenate()([features, number])
    outputs = {"score": keras.layers.Dense(1)(joined), "parts": [keras.layers.Dense(3)(joined), features]}
    model = keras.Model({"image": image, "number": number}, outputs)
    numbers = np.random.default_rng(1).normal(size=(len(pictures), 2)).astype(np.float32)

    def prepare(index: int) -> dict[str, np.ndarray]:
        return {"number": numbers[index], "image": pictures[index].astype(np.float32)}

    expected = model.predict({"image": pictures.astype(np.float32), "number": numbers}, verbose=0)
    with ringfeed.Predictor(model, preprocess=prepare, workers=2) as predictor:
        assert_same(predictor.predict(range(len(pictures))), expected)


def test_preprocess_with_out_fills_the_slot(cnn, files, pictures) -> None:
    def decode_into(path: pathlib.Path, out: np.ndarray) -> None:
        out[...] = decode(path)

    with ringfeed.Predictor(cnn, preprocess=decode_into, workers=2) as predictor:
        assert_same(predictor.predict(files), cnn.predict(pictures, verbose=0))
    with ringfeed.Predictor(cnn, preprocess=decode_into, workers=2, sample_spec=((12, 10, 3), "uint8")) as predictor:
        assert_same(predictor.predict(files), cnn.predict(pictures, verbose=0))
        assert predictor.ring.spec["0"].dtype == np.uint8


def test_preprocess_with_out_needs_to_know_the_shape(pictures) -> None:
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    with (
        ringfeed.Predictor(model, preprocess=lambda item, out: None, workers=1) as predictor,
        pytest.raises(ValueError, match="sample_spec"),
    ):
        predictor.predict([1])


def test_a_first_item_that_the_model_does_not_take_is_refused_with_both_shapes(cnn) -> None:
    with (
        ringfeed.Predictor(cnn, preprocess=lambda item: np.zeros((9, 9, 3)), workers=1) as predictor,
        pytest.raises(ValueError, match=r"\(12, 10, 3\).*\(9, 9, 3\)"),
    ):
        predictor.predict([1])


@pytest.mark.parametrize("form", ["file", "folder", "function", "callable"])
def test_the_model_comes_in_many_forms(cnn, pictures, tmp_path, form: str) -> None:
    if form == "file":
        model: Any = tmp_path / "model.keras"
        cnn.save(model)
    elif form == "folder":
        model = str(tmp_path / "saved")
        cnn.export(model, verbose=False)
    elif form == "function":
        model = tf.function(lambda x: cnn(tf.cast(x, tf.float32)))
    else:
        model = lambda x: cnn(x)  # noqa: E731
    with ringfeed.Predictor(model, preprocess=lambda i: pictures[i].astype(np.float32), workers=2) as predictor:
        assert_same(predictor.predict(range(60)), cnn.predict(pictures[:60], verbose=0))


# ---- failures ----------------------------------------------------------------------------------------


def fails_at(*indices: int):
    def prepare(item: np.ndarray) -> np.ndarray:
        if item[0, 0, 0] in indices:
            raise ValueError("broken picture")
        return item

    return prepare


@pytest.fixture(scope="module")
def numbered(pictures: np.ndarray) -> np.ndarray:
    numbered = pictures.copy()
    numbered[:, 0, 0, 0] = np.arange(len(pictures))
    return numbered


def test_a_failing_item_is_raised_by_name_and_the_predictor_goes_on(cnn, numbered) -> None:
    with ringfeed.Predictor(cnn, preprocess=fails_at(40), workers=2) as predictor:
        with pytest.raises(ringfeed.PreprocessError, match=r"item 40 .*\n(.*\n)*ValueError: broken picture") as caught:
            predictor.predict(numbered)
        assert caught.value.index == 40
        np.testing.assert_array_equal(caught.value.item, numbered[40])
        assert_same(predictor.predict(numbered[50:]), cnn.predict(numbered[50:], verbose=0))


@pytest.mark.parametrize("items_as", [list, iter])
@pytest.mark.parametrize("failing", [(0,), (40, 41), (149,)])
def test_failing_items_can_be_skipped(cnn, numbered, items_as, failing) -> None:
    with ringfeed.Predictor(cnn, preprocess=fails_at(*failing), workers=2, on_error="skip") as predictor:
        outputs = predictor.predict(items_as(numbered))
        assert sorted(failure.index for failure in predictor.failures) == list(failing)
    assert_same(outputs, np.delete(cnn.predict(numbered, verbose=0), failing, axis=0))


@pytest.mark.parametrize("failing", [(0,), (40, 41), (149,)])
def test_errors_can_stand_in_the_place_of_results(cnn, numbered, failing) -> None:
    expected = cnn.predict(numbered, verbose=0)
    with ringfeed.Predictor(cnn, preprocess=fails_at(*failing), workers=2, on_error="return") as predictor:
        results = predictor.predict(numbered)
        streamed = dict(predictor.stream(numbered))
    assert len(results) == len(numbered)
    for index, result in enumerate(results):
        if index in failing:
            assert isinstance(result, ringfeed.PreprocessError)
            assert isinstance(streamed[index], ringfeed.PreprocessError)
        else:
            assert_same(result, expected[index])
            assert_same(streamed[index], expected[index])


def test_a_model_that_raises_loses_nothing_else(pictures) -> None:
    @tf.function
    def picky(x):
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(x), tf.cast(256, x.dtype))]):
            return tf.reduce_mean(tf.cast(x, tf.float32), (1, 2, 3))

    with ringfeed.Predictor(picky, preprocess=lambda value: np.full((4,) * 3, value), workers=2) as predictor:
        with pytest.raises(tf.errors.InvalidArgumentError):
            predictor.predict([1, 2, 300])
        assert predictor.predict([1, 2, 3]).tolist() == [1, 2, 3]


# ---- streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_brings_each_item_once(cnn, pictures, ordered) -> None:
    with ringfeed.Predictor(cnn, preprocess=lambda x: x, workers=2) as predictor:
        pairs = list(predictor.stream(iter(pictures), ordered=ordered))
    if ordered:
        assert [index for index, _ in pairs] == list(range(len(pictures)))
    by_index = dict(pairs)
    assert_same(np.stack([by_index[i] for i in range(len(pictures))]), cnn.predict(pictures, verbose=0))


def test_an_endless_stream_is_read_no_further_than_the_window(cnn, pictures) -> None:
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield pictures[0]

    with ringfeed.Predictor(cnn, preprocess=lambda x: x, workers=2) as predictor:
        stream = predictor.stream(endless(), window=64)
        for index, _ in itertools.islice(stream, 1000):
            assert read <= index + 2 * 64 + predictor.ring.slots
        stream.close()
        assert len(predictor.predict(pictures)) == len(pictures)


def test_one_call_at_a_time(cnn, pictures) -> None:
    with ringfeed.Predictor(cnn, preprocess=lambda x: x, workers=1) as predictor:
        stream = predictor.stream(iter(pictures))
        next(stream)
        with pytest.raises(ringfeed.RingFeedError, match="finish or close its stream"):
            predictor.predict(pictures)
        stream.close()
        assert len(predictor.predict(pictures)) == len(pictures)


@pytest.mark.parametrize(
    ("partition", "labels"), [("contiguous", None), ("stratified", [number % 3 for number in range(150)])]
)
def test_shares_give_the_same_results(cnn, pictures, partition, labels) -> None:
    with ringfeed.Predictor(cnn, preprocess=lambda x: x, workers=3, partition=partition) as predictor:
        assert_same(predictor.predict(pictures, labels=labels), cnn.predict(pictures, verbose=0))
        pairs = list(predictor.stream(pictures, labels=labels))
        assert [index for index, _ in pairs] == list(range(len(pictures)))


# ---- the rest of Keras's signature -------------------------------------------------------------------


def test_steps_and_callbacks_work_as_in_keras(cnn, pictures) -> None:
    class Recorder(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []
            self.rows = 0

        def on_predict_begin(self, logs=None) -> None:
            self.calls.append("begin")

        def on_predict_batch_end(self, batch, logs=None) -> None:
            self.rows += len(logs["outputs"])

        def on_predict_end(self, logs=None) -> None:
            self.calls.append("end")

    recorder = Recorder()
    with ringfeed.Predictor(cnn, preprocess=lambda x: x, workers=2, batch_size=16) as predictor:
        outputs = predictor.predict(iter(pictures), steps=3, callbacks=[recorder])
    assert_same(outputs, cnn.predict(pictures[:48], verbose=0))
    assert recorder.calls == ["begin", "end"]
    assert recorder.rows == 48


def test_a_bar_is_shown_when_asked_for_and_not_off_a_terminal(cnn, pictures, capsys) -> None:
    with ringfeed.Predictor(cnn, preprocess=lambda x: x, workers=2) as predictor:
        predictor.predict(pictures)
        assert capsys.readouterr().err == ""
        predictor.predict(pictures, verbose=1)
        assert "150/150" in capsys.readouterr().err
        predictor.predict(pictures, verbose=2)
        assert "150 items in" in capsys.readouterr().err


def test_without_preprocess_no_process_is_started(cnn, pictures) -> None:
    with ringfeed.Predictor(cnn) as predictor:
        assert predictor.worker_process_ids == []
        assert_same(predictor.predict(pictures), cnn.predict(pictures, verbose=0))
        assert predictor.ring is None
        with pytest.raises(ringfeed.RingFeedError, match="preprocess"):
            predictor.stream(pictures)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": -1}, "workers -1"),
        ({"batch_size": -1}, "batch_size -1"),
        ({"on_error": "ignore"}, "on_error 'ignore'"),
        ({"partition": "random"}, "partition 'random'"),
        ({"slots": 0}, "slots 0"),
    ],
)
def test_bad_options_are_named(cnn, options, said) -> None:
    with pytest.raises(ValueError, match=said):
        ringfeed.Predictor(cnn, preprocess=lambda x: x, **({"workers": 1} | options))


def test_bad_items_are_named(cnn) -> None:
    with ringfeed.Predictor(cnn, preprocess=lambda x: x, workers=1) as predictor:
        with pytest.raises(TypeError, match="one item"):
            predictor.predict("picture.png")
        with pytest.raises(TypeError, match="dict"):
            predictor.predict({"a": 1})
        with pytest.raises(ValueError, match="empty"):
            predictor.predict([])
    with pytest.raises(ringfeed.RingFeedError, match="closed"):
        predictor.predict([1])


def test_a_function_that_cannot_be_sent_is_refused(cnn) -> None:
    lock, stream = threading.Lock(), io.BytesIO()

    def prepare(item: int) -> int:
        with lock:
            return stream.tell()

    with pytest.raises(TypeError, match="cannot be sent to a worker"):
        ringfeed.Predictor(cnn, preprocess=prepare, workers=1)
