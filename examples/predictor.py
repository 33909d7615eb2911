"""Predict from files: worker processes decode, one model predicts.

Prints the mean colour of scikit-image's pictures.
"""

from pathlib import Path

import keras
import numpy as np
import skimage
from PIL import Image

import ringfeed


def decode(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB").resize((224, 224)))


model = keras.Sequential([keras.Input((224, 224, 3)), keras.layers.GlobalAveragePooling2D()])
paths = sorted((Path(skimage.__file__).parent / "data").glob("*.png"))

with ringfeed.Predictor(model, preprocess=decode, workers=2) as predictor:
    colours = predictor.predict(paths)

for path, colour in zip(paths, colours, strict=True):
    print(f"{path.name:22}", np.round(colour))
