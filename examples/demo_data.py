"""The demo's pictures and how they are decoded. Imports no TensorFlow: worker processes import this module."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPH_SIDE_PIXELS = 224
DIGIT_SIDE_PIXELS = 8

# The photographs inside the installed packages. scikit-image downloads others, which the demo does not use.
SKIMAGE_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SKLEARN_PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def decode_photograph(path: str) -> np.ndarray:
    """Read a JPEG or PNG file of any size and mode as a uint8 array (224, 224, 3)."""
    with Image.open(path) as picture:
        colour = picture.convert("RGB")
        return np.asarray(colour.resize((PHOTOGRAPH_SIDE_PIXELS, PHOTOGRAPH_SIDE_PIXELS), Image.Resampling.BILINEAR))


def decode_digit(path: str) -> np.ndarray:
    """Read a grey PNG file of 8x8 pixels as a uint8 array (8, 8, 1)."""
    with Image.open(path) as picture:
        return np.asarray(picture)[:, :, np.newaxis]


def photographs() -> list[str]:
    """Paths of the photographs inside the packages scikit-image and scikit-learn."""
    import skimage
    import sklearn

    candidates = [Path(skimage.__file__).parent / "data" / name for name in SKIMAGE_PHOTOGRAPHS]
    candidates += [Path(sklearn.__file__).parent / "datasets" / "images" / name for name in SKLEARN_PHOTOGRAPHS]
    found = [str(path) for path in candidates if path.is_file()]
    if not found:
        raise FileNotFoundError("no photograph inside scikit-image or scikit-learn; were their packages stripped?")
    return found


def repeated(paths: list[str], times: int) -> list[str]:
    """Every path `times` times, in a fixed shuffled order."""
    items = paths * times
    random.Random(0).shuffle(items)
    return items


@dataclass(frozen=True)
class Digits:
    """scikit-learn's handwritten digits as uint8 pictures (n, 8, 8, 1) with labels 0 to 9, split once."""

    train_pictures: np.ndarray
    train_labels: np.ndarray
    test_pictures: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def load(cls) -> Digits:
        """1257 pictures to train on and 540 to test."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        pictures = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        train, test, train_labels, test_labels = train_test_split(
            pictures, digits.target, test_size=0.3, random_state=0, stratify=digits.target
        )
        return cls(train, train_labels, test, test_labels)

    def write_test_files(self, folder: Path) -> list[str]:
        """Write one PNG file per test picture and return their paths, in the order of `test_labels`."""
        paths = [str(folder / f"{index:04d}.png") for index in range(len(self.test_pictures))]
        for path, picture in zip(paths, self.test_pictures, strict=True):
            Image.fromarray(picture[:, :, 0]).save(path)
        return paths
