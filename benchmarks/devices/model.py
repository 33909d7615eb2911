"""The model of the comparison of devices, and its pictures. A device has one, two or half a copy of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
FIELDS = {"picture": ((SIDE, SIDE, 3), "float32")}
CUT_BEHIND = "second"  # about half of its work
CLASSES = 10


def build() -> Any:
    """Make the model, with the same weights in every process."""
    import keras

    keras.utils.set_random_seed(7)
    convolution = {"padding": "same", "activation": "relu"}
    layers = [
        keras.Input((SIDE, SIDE, 3), name="picture"),
        keras.layers.Conv2D(32, 3, name="first", **convolution),
        keras.layers.Conv2D(32, 3, strides=2, name="second", **convolution),
        keras.layers.Conv2D(32, 3, name="third", **convolution),
        keras.layers.Conv2D(16, 3, name="fourth", **convolution),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(CLASSES, "softmax", name="classes"),
    ]
    return keras.Sequential(layers, name="small")


def pictures(rows: int) -> np.ndarray:
    """Return parts of scikit-image's astronaut."""
    import skimage
    from PIL import Image

    astronaut = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png"), "float32") / 255
    corners = np.random.default_rng(7).integers(0, astronaut.shape[0] - SIDE, (rows, 2))
    return np.stack([astronaut[top : top + SIDE, left : left + SIDE] for top, left in corners])
