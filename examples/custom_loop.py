"""A loop of your own: workers attach to a ring by its name and fill slots, the main process takes batches.

Prints the mean colour of the pictures that come with scikit-image, in the order in which they were ready.
"""

import multiprocessing
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

import ringfeed


def work(ring_name: str, tasks: list[tuple[int, Path]]) -> None:
    with ringfeed.Ring.attach(ring_name) as ring:
        for index, path in tasks:
            with ring.claim() as slot:  # published at the end of the block
                slot["image"][...] = Image.open(path).convert("RGB").resize((224, 224))
                slot.tag = index


def main() -> None:
    import tensorflow as tf  # not at the top: the worker processes import this file and need no TensorFlow

    tasks = list(enumerate(sorted((Path(skimage.__file__).parent / "data").glob("*.png"))))
    spawn = multiprocessing.get_context("spawn")
    with ringfeed.Ring.create("example-pictures", {"image": ((224, 224, 3), "uint8")}, slots=64) as ring:
        workers = [spawn.Process(target=work, args=(ring.name, tasks[number::2]), daemon=True) for number in range(2)]
        for worker in workers:
            worker.start()
        done = 0
        while done < len(tasks):
            with ring.take(max_rows=16, timeout=60.0, linger=0.002) as batch:  # batch["image"]: [n, 224, 224, 3]
                colours = tf.reduce_mean(tf.cast(batch["image"], tf.float32), axis=(1, 2)).numpy()
                for index, colour in zip(batch.tags, colours, strict=True):
                    print(f"{tasks[index][1].name:22}", np.round(colour))
                done += len(batch)
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main()
