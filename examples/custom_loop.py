"""A custom loop: workers attach to a ring by its name and fill slots; the main process takes batches.

Prints the mean colour of scikit-image's pictures, in the order in which they are ready. An exception in a worker ends
the loop as `ringfeed.ProducerFailed`, with the text of the exception.
"""

import multiprocessing
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

import ringfeed

paths = sorted((Path(skimage.__file__).parent / "data").glob("*.png"))


def work(first: int) -> None:
    with ringfeed.Ring.attach("pictures") as ring, ring.producing():  # the last that leaves finishes the ring
        for number in range(first, len(paths), 2):
            with ring.claim() as slot:  # published at the end of the block
                slot["image"] = Image.open(paths[number]).convert("RGB").resize((224, 224))
                slot.tag = number


if __name__ == "__main__":  # multiprocessing imports this file in each worker
    import tensorflow as tf

    fields = {"image": ((224, 224, 3), "uint8")}
    with (
        ringfeed.Ring.create("pictures", fields, slots=64, producers=2) as ring,
        multiprocessing.get_context("spawn").Pool(2) as pool,
    ):
        pool.map_async(work, range(2))
        for batch in ring.batches(max_rows=16, linger=0.002):  # batch["image"]: the slots themselves, [n, 224, 224, 3]
            colours = tf.reduce_mean(tf.cast(batch["image"], tf.float32), axis=(1, 2))
            for number, colour in zip(batch.tags, colours, strict=True):
                print(f"{paths[number].name:22}", np.round(colour))
