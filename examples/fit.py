"""`model.fit` fed from a ring: two producer processes make new pictures for each epoch, and fit reads the ring.

The producers' work is cheap here: they change the brightness of scikit-learn's digits and add noise. It stands for
reading, decoding and augmenting, which would delay the training process. `fit` gets batches in the ring's own memory.
Run it with ``python examples/fit.py``. The order of the pictures is random, so two runs differ. The example fails
unless the network's accuracy on unseen digits is near that of a network trained on arrays.
"""

import multiprocessing
import sys

import numpy as np

import ringfeed

PRODUCERS, EPOCHS, BATCH_SIZE = 2, 4, 32
STEPS = 1440 // BATCH_SIZE


def produce(images: np.ndarray, labels: np.ndarray, ring_name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    with ringfeed.Ring.attach(ring_name) as ring, ring.producing():
        for _ in range(EPOCHS):
            for number in random.permutation(len(images)):
                with ring.claim() as slot:  # published at the end of the block
                    slot["image"][...] = images[number] * random.uniform(0.8, 1.2) + random.normal(0, 0.5, (8, 8))
                    slot["label"][...] = labels[number]


if __name__ == "__main__":  # multiprocessing imports this file in each producer
    from digits import FIELDS, IMAGES, LABELS, untrained_model

    train, test = slice(0, STEPS * BATCH_SIZE), slice(STEPS * BATCH_SIZE, None)
    model, of_arrays = untrained_model(), untrained_model()
    with (
        ringfeed.Ring.create(None, {**FIELDS, "label": ((), "int64")}, 8 * BATCH_SIZE, producers=PRODUCERS) as ring,
        multiprocessing.get_context("spawn").Pool(PRODUCERS) as producers,
    ):
        shares = [(IMAGES[train][n::PRODUCERS], LABELS[train][n::PRODUCERS], ring.name, n) for n in range(PRODUCERS)]
        producing = producers.starmap_async(produce, shares)
        batches = ringfeed.tf.dataset(ring, BATCH_SIZE, structure=("image", "label"), drop_remainder=True)
        model.fit(batches, epochs=EPOCHS, steps_per_epoch=STEPS, shuffle=False, verbose=0)
        producing.get()
        published, missed = ring.stats()["published"], ring.ready
    of_arrays.fit(IMAGES[train], LABELS[train], batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    known, known_of_arrays = (each.evaluate(IMAGES[test], LABELS[test], verbose=0)[1] for each in (model, of_arrays))
    print(
        f"trained on {published - missed} pictures from the ring: accuracy {known:.3f}; on arrays {known_of_arrays:.3f}"
    )
    if published - missed != EPOCHS * STEPS * BATCH_SIZE or known < known_of_arrays - 0.05:
        sys.exit("the accuracy is too far from that of training on arrays")
