"""Random Keras models, random inputs for them, and a comparison with the results of Keras.

RINGFEED_EXAMPLES multiplies the number of hypothesis examples: 1 by default, so that a run stays short.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FEATURES = 4
VOCABULARY = 11

# Both sides run the same operations on the same batches, but TensorFlow optimizes each graph separately: sums
# may be taken in another order and operations fused. That moves the last bits: 2**-23 of float32 (1.2e-7), 2**-10 of
# float16, 2**-7 of bfloat16, grown by a few tens of terms.
RELATIVE_TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


def examples(count: int) -> settings:
    """Return settings for `count` examples, without a deadline, because tracing a model takes time."""
    return settings(
        max_examples=count * int(os.environ.get("RINGFEED_EXAMPLES", "1")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_same(actual: Any, expected: Any) -> None:
    """Check that structure, types, shapes and dtypes are equal, and values are close (see RELATIVE_TOLERANCE)."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, (tf.RaggedTensor, tf.SparseTensor)):
        assert actual.shape.as_list() == expected.shape.as_list()
        for one, other in zip(
            tf.nest.flatten(actual, expand_composites=True),
            tf.nest.flatten(expected, expand_composites=True),
            strict=True,
        ):
            assert_same(one.numpy(), other.numpy())
    else:
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        tolerance = RELATIVE_TOLERANCE.get(expected.dtype.name)
        if tolerance is None:
            np.testing.assert_array_equal(actual, expected)
        else:
            one, other = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
            # Sums that cancel out lose more than their last bits, so the tolerance is relative to the largest value.
            scale = float(np.max(np.abs(other), initial=0.0, where=np.isfinite(other)))
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


# ---- Models ------------------------------------------------------------------------------------------


def dense_features(x: Any, seed: int, *extras: str) -> Any:
    """Return FEATURES features of a vector."""
    x = keras.layers.Dense(6, activation="relu", kernel_initializer=keras.initializers.GlorotNormal(seed))(x)
    for extra in extras:
        x = {
            "dropout": lambda: keras.layers.Dropout(0.5),
            "batch_norm": lambda: keras.layers.BatchNormalization(
                moving_mean_initializer=keras.initializers.RandomNormal(seed=seed),
                moving_variance_initializer=keras.initializers.RandomUniform(0.5, 2.0, seed=seed),
            ),
            "layer_norm": keras.layers.LayerNormalization,
            "lambda": lambda: keras.layers.Lambda(lambda t: t * 2.0 - 1.0),
            "noise": lambda: keras.layers.GaussianNoise(1.0),
        }[extra]()(x)
    return keras.layers.Dense(FEATURES, kernel_initializer=keras.initializers.GlorotNormal(seed + 1))(x)


def image_features(x: Any, seed: int, *extras: str) -> Any:
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(3, 3, kernel_initializer=keras.initializers.GlorotNormal(seed))(x)
    x = keras.layers.MaxPooling2D()(x)
    return dense_features(keras.layers.Flatten()(x), seed, *extras)


def token_features(x: Any, seed: int, *extras: str) -> Any:
    x = keras.layers.Embedding(
        VOCABULARY, 5, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(seed=seed)
    )(x)
    return dense_features(keras.layers.GlobalAveragePooling1D()(x), seed, *extras)


def mask_features(x: Any, seed: int, *extras: str) -> Any:
    return dense_features(keras.ops.cast(keras.ops.logical_not(x), "float32"), seed, *extras)


# For each kind of input: the shape of a sample, the dtype that the model declares, and the features' function.
KINDS: dict[str, tuple[tuple[int, ...], str, Callable[..., Any]]] = {
    "vector": ((7,), "float32", dense_features),
    "image": ((9, 8, 3), "float32", image_features),
    "tokens": ((6,), "int32", token_features),
    "mask": ((5,), "bool", mask_features),
}
EXTRAS = ["dropout", "batch_norm", "layer_norm", "lambda", "noise"]


NAMES = ("input_c", "input_a", "input_b")  # deliberately not sorted


def structured(leaves: list[Any], structure: str) -> Any:
    """Nest leaves in the ways that Keras allows for inputs and outputs."""
    if len(leaves) == 1:
        return leaves[0]
    return {
        "list": lambda: list(leaves),
        "tuple": lambda: tuple(leaves),
        "dict": lambda: dict(zip(NAMES[: len(leaves)], leaves, strict=True)),
        "nested": lambda: {NAMES[0]: leaves[0], "rest": [tuple(leaves[1:])]},
    }[structure]()


@dataclass(frozen=True)
class Plan:
    """The parts of a functional model."""

    seed: int
    kinds: tuple[str, ...]
    inputs: str
    outputs: tuple[str, int]
    policy: str
    extras: tuple[str, ...]

    def build(self) -> Any:
        keras.utils.set_random_seed(self.seed)
        keras.config.set_dtype_policy(self.policy)
        try:
            names = NAMES[: len(self.kinds)]
            kinds = [KINDS[kind] for kind in self.kinds]
            inputs = [keras.Input(shape, dtype=d, name=n) for (shape, d, _), n in zip(kinds, names, strict=True)]
            features = [make(x, self.seed, *self.extras) for (_, _, make), x in zip(kinds, inputs, strict=True)]
            joined = keras.layers.Concatenate()(features) if len(features) > 1 else features[0]
            outputs = [keras.layers.Dense(width, name=f"out_{width}")(joined) for width in (3, 1, 2)]
            outputs[2] = keras.ops.argmax(outputs[2], axis=-1)  # [rows] of int32
            structure, count = self.outputs
            return keras.Model(structured(inputs, self.inputs), structured(outputs[:count], structure))
        finally:
            keras.config.set_dtype_policy("float32")


STRUCTURES = ["list", "tuple", "dict", "nested"]
POLICIES = ["float32", "float32", "mixed_float16", "mixed_bfloat16", "float16"]


def plans() -> st.SearchStrategy[Plan]:
    """Draw plans of functional models."""
    return st.builds(
        Plan,
        seed=st.integers(0, 1000),
        kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3).map(tuple),
        inputs=st.sampled_from(STRUCTURES),
        outputs=st.tuples(st.sampled_from(STRUCTURES), st.integers(1, 3)),
        policy=st.sampled_from(POLICIES),
        extras=st.lists(st.sampled_from(EXTRAS), max_size=2).map(tuple),
    )


# ---- Inputs ------------------------------------------------------------------------------------------

DTYPES = {
    "vector": ["float32", "float64", "float16", "int32", "uint8", "bool"],
    "image": ["float32", "uint8", "float64", "int16"],
    "tokens": ["int32", "int64", "uint8", "float32"],
    "mask": ["bool"],
}


def random_array(kind: str, rows: int, dtype: str, seed: int) -> np.ndarray:
    """Return an array (rows, ...) for a kind of input."""
    random, shape = np.random.default_rng(seed), (rows, *KINDS[kind][0])
    if kind == "tokens":
        return random.integers(0, VOCABULARY, shape).astype(dtype)
    if kind == "mask" or dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    return (random.random(shape) * (200 if kind == "image" else 4)).astype(dtype)


def fortran(array: np.ndarray) -> np.ndarray:
    return np.asfortranarray(array)


def strided(array: np.ndarray) -> np.ndarray:
    return np.repeat(array, 2, axis=0)[::2]


def reversed_twice(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[::-1])[::-1]


def read_only(array: np.ndarray) -> np.ndarray:
    array = aligned(array)
    array.flags.writeable = False
    return array


def starting_at(array: np.ndarray, offset: int) -> np.ndarray:
    """Copy an array to `offset` bytes after a multiple of 64."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def aligned(array: np.ndarray) -> np.ndarray:
    return starting_at(array, 0)


def misaligned(array: np.ndarray) -> np.ndarray:
    return starting_at(array, array.itemsize)


LAYOUTS = [np.array, fortran, strided, reversed_twice, read_only, aligned, misaligned, tf.constant]


@st.composite
def inputs_for(draw: st.DrawFn, plan: Plan) -> Any:
    """Draw inputs of 1 to 200 rows, of any dtype and layout, in the model's structure."""
    rows, seed = draw(st.integers(1, 200)), draw(st.integers(0, 1000))
    leaves = []
    for number, kind in enumerate(plan.kinds):
        array = random_array(kind, rows, draw(st.sampled_from(DTYPES[kind])), seed + number)
        leaves.append(draw(st.sampled_from(LAYOUTS))(array))
    return structured(leaves, plan.inputs)


# ---- One small model, with data --------------------------------------------------------------------------

X = np.random.default_rng(1).random((70, 7), np.float32)


def small_model() -> Any:
    """Return a model with inputs of 7 numbers per row."""
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((7,)), keras.layers.Dense(4, activation="tanh")])


class Echo(keras.Model):
    """A model that returns its inputs, so that tests see their dtypes and structures."""

    def call(self, inputs: Any) -> Any:
        return tf.nest.map_structure(lambda x: None if x is None else keras.ops.copy(x), inputs)
