"""`model.fit` fed from a ring: two producer processes make every picture anew for each epoch, fit reads the ring.

What producers do here is cheap: each picture of scikit-learn's digits gets another brightness and some noise. It stands
for reading, decoding and augmenting, which would keep the training process from training. `fit` gets batches that are
the ring's own memory. Run it by ``python examples/fit.py``. The order of the pictures is a matter of chance, so two
runs differ; it fails unless the network knows digits that it has never seen nearly as well as one that was trained on
arrays.
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
        sys.exit("that is not what training on arrays gives")
