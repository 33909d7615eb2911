"""`precision`: a model in another precision, and how much this changes its outputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from ringfeed.tf.models.precision import PRECISIONS, compare, weight_bytes, with_precision
from ringfeed.tf.models.runner import ModelRunner

HALF = ["mixed_float16", "mixed_bfloat16", "bfloat16"]


@pytest.fixture(scope="module")
def digits():
    """Return a model that was trained on handwritten digits, and test digits as (images, labels)."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ],
        name="digits",
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images[:1400], labels[:1400], epochs=6, verbose=0)
    return model, images[1400:], labels[1400:]


def accuracy(model, images, labels):
    return float((ModelRunner(model)(images).argmax(axis=-1) == labels).mean())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_trained_model_stays_as_good_and_its_outputs_stay_float32(digits, precision):
    model, images, labels = digits
    weights = [weight.numpy() for weight in model.weights]
    before = accuracy(model, images, labels)
    assert before > 0.9
    other = with_precision(model, precision)
    assert other is not model
    assert accuracy(other, images, labels) == pytest.approx(before, abs=0.02)
    assert ModelRunner(other)(images[:2]).dtype == np.float32
    report = compare(model, other, images)
    assert report.rows == len(images)
    (change,) = report.outputs
    assert change.same_argmax >= 0.98
    assert (change.max_absolute == 0) == (precision == "float32")
    assert change.max_absolute < 0.2
    # The caller's model is unchanged.
    assert all(np.array_equal(one, other.numpy()) for one, other in zip(weights, model.weights, strict=True))
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert model.compiled


def test_the_bytes_of_the_weights_are_those_of_the_precision(digits):
    model = digits[0]
    whole = weight_bytes(model)
    assert whole == 4 * model.count_params()
    assert weight_bytes(with_precision(model, "mixed_float16")) == whole
    last = 4 * (64 * 10 + 10)  # the layer that computes the outputs keeps its precision
    assert weight_bytes(with_precision(model, "bfloat16")) == (whole - last) // 2 + last
    assert weight_bytes(with_precision(model, "int8")) < 0.35 * whole
    assert weight_bytes(lambda x: x) is None


def test_hidden_layers_compute_in_the_precision_that_is_asked_for(digits):
    for precision in HALF:
        layers = with_precision(digits[0], precision).layers
        assert [layer.dtype_policy.name for layer in layers] == [precision] * 5 + ["float32"]


def test_without_a_precision_the_model_is_unchanged(digits):
    assert with_precision(digits[0]) is with_precision(digits[0], None) is digits[0]


def functional():
    """Return a model with outputs of a layer, of a nested model, of an operation, and of integers."""
    keras.utils.set_random_seed(1)
    x, words = keras.Input((6,), name="x"), keras.Input((3,), name="words", dtype="int32")
    inner = keras.Input((4,))
    nested = keras.Model(inner, keras.layers.Dense(3)(keras.layers.Dense(4)(inner)), name="nested")
    shift = 0.5
    h = keras.layers.Lambda(lambda t: tf.nn.relu(t) - shift)(keras.layers.Dense(4)(x))
    h = h + keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(5, 4)(words))
    outputs = {"layer": keras.layers.Dense(2)(h), "nested": nested(h), "sum": h * 2.0, "class": keras.ops.argmax(h, -1)}
    return keras.Model({"x": x, "words": words}, outputs, name="functional")


INPUTS = {
    "x": np.random.default_rng(1).random((90, 6), np.float32),
    "words": np.random.default_rng(2).integers(0, 5, (90, 3)).astype(np.int32),
}


@pytest.mark.parametrize("precision", [*HALF, "int8"])
def test_each_output_keeps_its_name_and_dtype(precision):
    model = functional()
    other = with_precision(model, precision)
    before, after = ModelRunner(model)(INPUTS), ModelRunner(other)(INPUTS)
    assert list(before) == list(after)
    assert [array.dtype for array in before.values()] == [array.dtype for array in after.values()]
    report = compare(model, other, INPUTS)
    assert {change.name for change in report.outputs} == {f"output['{name}']" for name in before}
    assert all(change.max_absolute < 0.1 for change in report.outputs if "class" not in change.name)


class Subclassed(keras.Model):
    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.hidden, self.last = keras.layers.Dense(8), keras.layers.Dense(width)

    def call(self, x):
        return self.last(self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@pytest.mark.parametrize("precision", [*HALF, "int8"])
def test_a_subclassed_model_with_a_config_can_be_changed(precision):
    model = Subclassed(3)
    model(INPUTS["x"])
    other = with_precision(model, precision)
    assert ModelRunner(other)(INPUTS["x"]).dtype == np.float32
    (change,) = compare(model, other, INPUTS["x"]).outputs
    assert 0 < change.max_absolute < 0.1
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("precision", [*HALF, "int8"])
def test_layers_of_layers_are_changed_as_well(precision):
    keras.utils.set_random_seed(2)
    x = keras.Input((9, 4))
    y = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))(x)
    y = keras.layers.MultiHeadAttention(2, 3)(y, y)
    y = keras.layers.TimeDistributed(keras.layers.Dense(3))(y)
    model = keras.Model(x, keras.layers.Dense(2)(y))
    other = with_precision(model, precision)
    rows = np.random.default_rng(1).random((70, 9, 4), np.float32)
    (change,) = compare(model, other, rows).outputs
    assert 0 < change.max_absolute < 0.1
    if precision == "bfloat16":
        assert weight_bytes(other) < 0.55 * weight_bytes(model)


def test_a_model_of_its_last_layer_only_is_changed_all_the_same():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    other = with_precision(model, "bfloat16")
    assert weight_bytes(other) == weight_bytes(model) // 2
    assert ModelRunner(other)(INPUTS["x"]).dtype == np.float32


def test_a_model_in_mixed_precision_can_be_had_in_float32(digits):
    mixed = with_precision(digits[0], "mixed_bfloat16")
    back = with_precision(mixed, "float32")
    np.testing.assert_array_equal(ModelRunner(back)(digits[1]), ModelRunner(digits[0])(digits[1]))


def test_a_model_in_half_precision_is_quantized_from_float32(digits):
    half = with_precision(digits[0], "mixed_float16")
    quantized = with_precision(half, "int8")
    assert accuracy(quantized, *digits[1:]) == pytest.approx(accuracy(half, *digits[1:]), abs=0.02)


# ---- Refused models ----------------------------------------------------------------------------------


class Opaque(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.inner = layer

    def call(self, x):
        return self.inner(x)


def test_a_model_that_cannot_be_changed_is_refused_with_the_remedy(digits):
    with pytest.raises(ValueError, match=r"precision 'int3': give one of 'float32'"):
        with_precision(digits[0], "int3")
    for model in (lambda x: x, "model.keras"):
        with pytest.raises(ValueError, match=r"only the precision of a Keras model can be changed.*load_model"):
            with_precision(model, "int8")
    opaque = Opaque(keras.layers.Dense(2))
    opaque(INPUTS["x"])
    with pytest.raises(ValueError, match=r"cannot be copied.*set_dtype_policy"):
        with_precision(opaque, "mixed_float16")
    with pytest.raises(ValueError, match="is quantized already"):
        with_precision(with_precision(digits[0], "int8"), "bfloat16")
    x = keras.Input((6, 6, 1))
    with pytest.raises(ValueError, match=r"only Dense, EinsumDense and Embedding.*mixed_float16"):
        with_precision(keras.Model(x, keras.layers.Conv2D(2, 3)(x)), "int8")
    with pytest.raises(ValueError, match="no layer with weights"):
        with_precision(keras.Model(x, keras.layers.Flatten()(x)), "bfloat16")


# ---- The report ----------------------------------------------------------------------------------------


def test_differences_are_computed_per_output():
    samples = np.array([[1.0, 2.0, 4.0], [1.0, 0.0, 2.0]], np.float32)
    added = np.array([[0.5, 0.0, 0.0], [0.0, 3.0, 0.0]], np.float32)
    report = compare(lambda x: (x, x[:, 0]), lambda x: (x + added, x[:, 0]), samples)
    first, second = report.outputs
    assert (first.name, first.max_absolute, first.mean_absolute) == ("output[0]", 3.0, 3.5 / 6)
    assert first.max_relative == pytest.approx(3.0 / 4e-3)  # divided by a thousandth of the largest value instead of 0
    assert first.same_argmax == 0.5
    assert (second.max_absolute, second.max_relative, second.same_argmax) == (0.0, 0.0, None)
    assert (report.rows, report.weight_bytes_before) == (2, None)


def test_values_that_are_not_finite_are_counted_and_change_no_other_figure():
    samples = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    broken = np.array([[1, np.nan], [1, np.inf], [np.nan, np.nan]], np.float32)
    (change,) = compare(lambda x: x, lambda x: x * broken, samples).outputs
    assert (change.max_absolute, change.max_relative) == (0.0, 0.0)
    assert (change.not_finite_before, change.not_finite_after) == (0, 4)
    assert change.same_argmax == pytest.approx(1 / 3)
    (nothing,) = compare(lambda x: x * np.nan, lambda x: x * np.nan, samples).outputs
    assert (nothing.max_absolute, nothing.mean_relative, nothing.same_argmax) == (0.0, 0.0, 1.0)


def test_a_report_reads_as_a_paragraph(digits):
    text = str(compare(digits[0], with_precision(digits[0], "int8"), digits[1][:100]))
    assert "\n" not in text
    assert text.startswith("Measured on 100 rows: output differs by ")
    assert "same largest class in" in text
    assert f"of {weight_bytes(digits[0])}." in text
    assert "nan" not in text


def test_only_corresponding_outputs_are_compared():
    with pytest.raises(ValueError, match="whose outputs have the same shapes"):
        compare(lambda x: x, lambda x: x[:, :1], INPUTS["x"])
    with pytest.raises(ValueError, match="for each input, at least 1"):
        compare(lambda x: x, lambda x: x, INPUTS["x"][:0])
    with pytest.raises(ValueError, match="the same number for each input"):
        compare(lambda x: x, lambda x: x, {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))})
