"""Predict from files: worker processes decode, one model predicts. `predict` is a drop-in for Keras' own.

Prints the mean colour of the pictures that come with scikit-image.
"""

from pathlib import Path

import numpy as np
import skimage
from PIL import Image

import ringfeed


def decode(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB").resize((224, 224)))


def main() -> None:
    import keras  # not at the top: the worker processes import this file and need no TensorFlow

    model = keras.Sequential([keras.Input((224, 224, 3)), keras.layers.GlobalAveragePooling2D()])
    paths = sorted((Path(skimage.__file__).parent / "data").glob("*.png"))
    with ringfeed.Predictor(model, preprocess=decode, workers=2, batch_size=64) as predictor:
        colours = predictor.predict(paths)
    for path, (red, green, blue) in zip(paths, colours, strict=True):
        print(f"{path.name:22} red {red:3.0f}  green {green:3.0f}  blue {blue:3.0f}")


if __name__ == "__main__":
    main()
