"""Shared by several examples: scikit-learn's handwritten digits, and a small network trained on them.

Only the functions that make a network import TensorFlow, because producers and clients import this module.
"""

from typing import Any

from sklearn.datasets import load_digits

_DIGITS = load_digits()
IMAGES = _DIGITS.images.astype("float32")  # (1797, 8, 8), of 0 to 16
LABELS = _DIGITS.target
FIELDS = {"image": ((8, 8), "float32")}


def untrained_model() -> Any:
    """Return a network of two convolutions and two dense layers."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8), name="image"),
        keras.layers.Reshape((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu", name="edges"),
        keras.layers.Conv2D(16, 3, activation="relu", name="shapes"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, "relu"),
        keras.layers.Dense(10, "softmax", name="probabilities"),
    ]
    model = keras.Sequential(layers, name="digits")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def trained_model() -> Any:
    """Train the network, which takes a second or two."""
    model = untrained_model()
    model.fit(IMAGES, LABELS, batch_size=64, epochs=3, verbose=0)
    return model


def accuracy(probabilities: Any) -> float:
    """Return the share of the digits whose largest probability is that of the right class."""
    return float((probabilities.argmax(axis=1) == LABELS).mean())
