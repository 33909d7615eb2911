"""Preprocessing that holds the GIL: error diffusion, pixel by pixel, in Python.

Atkinson's dithering (from the first Macintosh; still used for e-paper) makes a grey picture black and white. Each pixel
needs the remaining error of its left and upper neighbours, so NumPy cannot compute it in one step. PIL has only Floyd
and Steinberg's dithering, and TensorFlow has none, so this loop is the usual solution. Imports no TensorFlow, because
worker processes import this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE_PIXELS = 64
CLASS_COUNT = 10
NOT_IN_TENSORFLOW = "it goes from pixel to pixel: this preprocessing cannot be written in TensorFlow's operations"


def write_thumbnails(paths: list[str], folder: Path) -> list[str]:
    """Write each photograph as a small grey PNG file, so that its reading costs little compared with the loop."""
    thumbnails = []
    for number, path in enumerate(paths):
        thumbnails.append(str(folder / f"thumbnail-{number:02d}.png"))
        with Image.open(path) as picture:
            picture.convert("L").resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BILINEAR).save(thumbnails[-1])
    return thumbnails


def dither(path: str) -> np.ndarray:
    """Read a grey PNG file of 64x64 pixels as a uint8 array (64, 64, 1) of values 0 and 255."""
    with Image.open(path) as picture:
        rows = np.asarray(picture).tolist()
    first, second = [0.0] * (SIDE_PIXELS + 2), [0.0] * (SIDE_PIXELS + 2)  # the error for this line and for the next
    for row in rows:
        line, below, second = first, second, [0.0] * (SIDE_PIXELS + 2)  # with an additional column at each end
        right = after = 0.0  # the error for the next pixel, and for the one after it
        for column, value in enumerate(row):
            wanted = value + right + line[column + 1]
            row[column] = 255 if wanted >= 128.0 else 0
            eighth = (wanted - row[column]) / 8.0  # only six eighths are passed on, which increases the contrast
            right, after = after + eighth, eighth
            below[column] += eighth
            below[column + 1] += eighth
            below[column + 2] += eighth
            second[column + 1] += eighth
        first = below
    return np.array(rows, np.uint8)[:, :, np.newaxis]


def build_model() -> Any:
    """Build a small CNN for pictures of 64x64 pixels."""
    from demo_models import import_keras

    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((SIDE_PIXELS, SIDE_PIXELS, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(CLASS_COUNT, activation="softmax"),
        ]
    )
