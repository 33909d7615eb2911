"""A ring and a model as one function: the shortest way from finished slots to outputs, with the records' tags.

Two processes put scikit-learn's handwritten digits into a ring. The example prints the mean position of their ink.
"""

import multiprocessing

import numpy as np
from sklearn.datasets import load_digits

import ringfeed

digits = load_digits()
PRODUCERS = 2


def produce(first: int) -> None:
    with ringfeed.Ring.attach("digits") as ring, ring.producing():
        for number in range(first, len(digits.images), PRODUCERS):
            ring.put({"image": digits.images[number].astype("float32")}, tag=number)


if __name__ == "__main__":  # multiprocessing imports this file in each producer
    import tensorflow as tf

    def centre_of_ink(images):
        ink = tf.reduce_sum(images, axis=2)  # of each line
        return tf.reduce_sum(ink * tf.range(8.0), axis=1) / tf.reduce_sum(ink, axis=1)

    centres = np.zeros(len(digits.images))
    with (
        ringfeed.Ring.create("digits", {"image": ((8, 8), "float32")}, slots=512, producers=PRODUCERS) as ring,
        multiprocessing.get_context("spawn").Pool(PRODUCERS) as pool,
    ):
        pool.map_async(produce, range(PRODUCERS))
        step = ringfeed.tf.fuse(ring, centre_of_ink, batch_size=64, pad="ring", jit_compile=True, with_tags=True)
        for outputs, tags in step:  # one call of TensorFlow's a batch, of a shape that XLA compiles once
            centres[tags] = outputs.numpy()
    print(f"mean line of the ink: {centres.mean():.2f} of 0 to 7, on {np.count_nonzero(centres)} digits")
