"""The workloads: real pictures, their preprocessing, and a model. Shared by the demo and bench_predict.py.

The pictures come with installed packages (examples/demo_data.py says which). Importing this imports no TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from demo_data import DIGIT_SIDE_PIXELS, PHOTOGRAPH_SIDE_PIXELS, decode_digit, decode_photograph, repeated
from demo_data import photographs as photograph_paths
from demo_models import build_digits_model, build_photographs_model

from pipelines import dithering
from pipelines.interface import Workload

# TensorFlow decodes JPEG and rounds a little differently than PIL: up to 10 of 255 in single pixels, by which a
# photograph's outputs move.
NATIVE_PHOTOGRAPHS_TOLERANCE = 0.02


def photograph_in_tensorflow(path: Any) -> Any:
    """Do the work of `decode_photograph`. `antialias` is on because PIL's BILINEAR averages when it shrinks."""
    import tensorflow as tf

    picture = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    resized = tf.image.resize(picture, (PHOTOGRAPH_SIDE_PIXELS, PHOTOGRAPH_SIDE_PIXELS), antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)


def digit_in_tensorflow(path: Any) -> Any:
    """Do the work of `decode_digit`."""
    import tensorflow as tf

    picture = tf.io.decode_png(tf.io.read_file(path), channels=1)
    return tf.ensure_shape(picture, (DIGIT_SIDE_PIXELS, DIGIT_SIDE_PIXELS, 1))


def photographs(times: int, worker_count: int) -> Workload:
    """JPEG and PNG files of any size, and a small MobileNet. PIL releases the GIL for most of the work."""
    return Workload(
        name="Photographs",
        unit="pictures",
        items=repeated(photograph_paths(), times),
        preprocess=decode_photograph,
        sample_shape=(PHOTOGRAPH_SIDE_PIXELS, PHOTOGRAPH_SIDE_PIXELS, 3),
        sample_dtype="uint8",
        batch_size=32,
        worker_count=worker_count,
        build_model=build_photographs_model,
        in_tensorflow=photograph_in_tensorflow,
        tolerances={"tf_data_native": NATIVE_PHOTOGRAPHS_TOLERANCE},
    )


def digits(paths: list[str], times: int, worker_count: int, weights: list[np.ndarray] | None = None) -> Workload:
    """PNG files of 8x8 pixels and a small CNN: the pipeline's own cost per item dominates."""
    return Workload(
        name="Digits",
        unit="digits",
        items=repeated(paths, times),
        preprocess=decode_digit,
        sample_shape=(DIGIT_SIDE_PIXELS, DIGIT_SIDE_PIXELS, 1),
        sample_dtype="uint8",
        batch_size=256,
        worker_count=worker_count,
        build_model=build_digits_model,
        weights=weights,
        in_tensorflow=digit_in_tensorflow,
    )


def dithered(folder: Path, times: int, worker_count: int) -> Workload:
    """Thumbnails of the photographs, dithered by a loop in Python, and a small CNN."""
    return Workload(
        name="Dithered thumbnails",
        unit="thumbnails",
        items=repeated(dithering.write_thumbnails(photograph_paths(), folder), times),
        preprocess=dithering.dither,
        sample_shape=(dithering.SIDE_PIXELS, dithering.SIDE_PIXELS, 1),
        sample_dtype="uint8",
        batch_size=32,
        worker_count=worker_count,
        build_model=dithering.build_model,
        not_in_tensorflow=dithering.NOT_IN_TENSORFLOW,
        holds_gil=True,
    )
