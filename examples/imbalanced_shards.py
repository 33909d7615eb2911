"""How workers share an imbalanced set of items, with results in the order of the items.

The items are pictures of scikit-image, the large ones first; a large one costs many times a small one. In blocks
("contiguous") one worker gets all large ones. With a label per item ("stratified") each worker gets its part of the
large and of the small ones, for workers that must have a fixed share. By default ("dynamic") a free worker takes the
next item, which gives the best balance for any costs. Run it with ``python examples/imbalanced_shards.py``. It fails
unless each way gives the results of a plain loop, in the same order.
"""

import os
import time
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

import ringfeed

WORKERS = 2
LARGE_BYTES = 200_000


def decode(path: Path) -> dict[str, np.ndarray]:
    """Return a picture of 32x32 pixels, the worker's number, and the time it took."""
    started = time.thread_time()
    image = np.asarray(Image.open(path).convert("RGB").resize((32, 32)), "float32")
    return {"image": image, "worker": np.int64(os.getpid()), "seconds": np.float64(time.thread_time() - started)}


def mean_colour(data):
    """Replace a model."""
    import tensorflow as tf

    return {**data, "image": tf.reduce_mean(data["image"], axis=(1, 2))}


folder = Path(skimage.__file__).parent / "data"
items = sorted(4 * [*folder.glob("*.png"), *folder.glob("*.jpg")], key=lambda path: -path.stat().st_size)
labels = ["large" if path.stat().st_size >= LARGE_BYTES else "small" for path in items]
expected = [decode(path)["image"].mean(axis=(0, 1)) for path in items]

print(f"{len(items)} pictures, {labels.count('large')} of them large, {WORKERS} workers")
for partition in ("contiguous", "stratified", "dynamic"):
    with ringfeed.Predictor(mean_colour, preprocess=decode, workers=WORKERS, partition=partition) as predictor:
        outputs = predictor.predict(items, verbose=0, labels=labels)  # only "stratified" looks at the labels
    np.testing.assert_allclose(outputs["image"], expected, rtol=1e-4)  # in the order of the items
    shares = [outputs["seconds"][outputs["worker"] == worker] for worker in np.unique(outputs["worker"])]
    busiest = max(share.sum() for share in shares) / outputs["seconds"].sum()
    parts = "; ".join(f"{len(share)} pictures in {1e3 * share.sum():.0f} ms" for share in shares)
    print(f"{partition:10}  the busiest worker has {busiest:.0%} of the work: {parts}")
