"""The demo's two models. TensorFlow is imported on first use, without its start-up messages."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from demo_data import DIGIT_SIDE_PIXELS, PHOTOGRAPH_SIDE_PIXELS, Digits

CLASS_COUNT = 10
LAST_LAYER_GAIN = 30.0


@contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Hold back the C++ output to standard error; show it if the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except Exception:
            held_back.seek(0)
            os.write(kept, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def import_keras() -> Any:
    """Keras on TensorFlow. The log levels are set for this demo only: a library must not do that."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with quiet_standard_error():
        import keras
        import tensorflow as tf

        tf.zeros(1)  # TensorFlow finds and reports its devices at first use
    tf.get_logger().setLevel("ERROR")
    return keras


def build_digits_model() -> Any:
    """Build a small CNN for pictures of 8x8 pixels."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((DIGIT_SIDE_PIXELS, DIGIT_SIDE_PIXELS, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", padding="same"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(CLASS_COUNT, activation="softmax"),
        ]
    )


def train_digits_model(digits: Digits, epochs: int) -> Any:
    """Train the small CNN, which takes a few seconds."""
    model = build_digits_model()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    model.fit(digits.train_pictures, digits.train_labels, batch_size=32, epochs=epochs, verbose=0)
    return model


def build_photographs_model() -> Any:
    """Build MobileNet at a quarter of its width with random weights: the cost of a real network, without a download.

    The weights follow He et al. (arXiv:1502.01852), with larger ones in the last layer. With Keras's default weights
    the signal would fade from layer to layer until every picture had the same outputs: nothing to compare.
    """
    keras = import_keras()
    keras.utils.set_random_seed(0)
    pictures = keras.Input((PHOTOGRAPH_SIDE_PIXELS, PHOTOGRAPH_SIDE_PIXELS, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(pictures)
    network = keras.applications.MobileNet(
        input_shape=pictures.shape[1:], alpha=0.25, weights=None, classes=CLASS_COUNT
    )
    generator = np.random.default_rng(0)
    for layer in network.layers:
        if hasattr(layer, "kernel"):
            height, width, channels, _ = layer.kernel.shape
            seen = height * width * (1 if isinstance(layer, keras.layers.DepthwiseConv2D) else channels)
            gain = LAST_LAYER_GAIN if layer.name == "conv_preds" else 1.0
            layer.kernel.assign(generator.normal(0.0, gain * (2 / seen) ** 0.5, layer.kernel.shape))
    return keras.Model(pictures, network(scaled))
