"""A custom training loop with gradient accumulation, fed from a ring.

The loop adds up the gradients of four batches of 32 digits before one step of the optimizer. That is the step of a
batch of 128 with the memory of a batch of 32. A producer process fills the ring meanwhile. Each batch is the ring's own
memory, and its slots are free again as soon as its gradients exist. Run it with
``python examples/gradient_accumulation.py``. It fails unless the weights equal those of batches of 128.
"""

import multiprocessing

import numpy as np

import ringfeed

BATCH_SIZE, ACCUMULATED, EPOCHS = 32, 4, 4
ROWS = 1792  # whole steps


def produce(images: np.ndarray, labels: np.ndarray, ring_name: str) -> None:
    with ringfeed.Ring.attach(ring_name) as ring, ring.producing():
        for _ in range(EPOCHS):
            for image, label in zip(images, labels, strict=True):
                ring.put({"image": image, "label": label})


if __name__ == "__main__":  # multiprocessing imports this file in the producer
    import keras
    import tensorflow as tf
    from digits import FIELDS, IMAGES, LABELS, untrained_model

    images, labels = IMAGES[:ROWS], LABELS[:ROWS]
    model, of_large_batches = untrained_model(), untrained_model()
    loss = keras.losses.SparseCategoricalCrossentropy()
    sums = [tf.Variable(tf.zeros_like(weight)) for weight in model.trainable_variables]

    @tf.function
    def add_gradients(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True)) / ACCUMULATED
        for total, gradient in zip(sums, tape.gradient(value, model.trainable_variables), strict=True):
            total.assign_add(gradient)

    @tf.function
    def step():
        model.optimizer.apply_gradients(zip(sums, model.trainable_variables, strict=True))
        for total in sums:
            total.assign(tf.zeros_like(total))

    with ringfeed.Ring.create(None, {**FIELDS, "label": ((), "int64")}, slots=8 * BATCH_SIZE) as ring:
        arguments = images, labels, ring.name
        producer = multiprocessing.get_context("spawn").Process(target=produce, args=arguments, daemon=True)
        producer.start()
        batches = ringfeed.tf.dataset(ring, BATCH_SIZE, structure=("image", "label"), drop_remainder=True)
        for number, batch in enumerate(batches, start=1):
            add_gradients(*batch)
            if number % ACCUMULATED == 0:
                step()
        del batch  # the variable would keep the last batch's slots
        producer.join()

    of_large_batches.fit(images, labels, batch_size=BATCH_SIZE * ACCUMULATED, epochs=EPOCHS, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), of_large_batches.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)
    known = model.evaluate(images, labels, verbose=0)[1]
    print(f"{number} batches, {number // ACCUMULATED} steps: the weights of large batches; accuracy {known:.3f}")
