"""A program's own call of `tf.data.Dataset.from_generator` over a ring, without copies and with recycled slots.

Another process puts scikit-learn's handwritten digits and their labels into the ring, and the example evaluates a
trained network on the taken batches. `ringfeed.tf.dataset` does the same with less code. This form is for programs
that already have a ``from_generator`` with further steps of their own.
"""

import multiprocessing

from digits import FIELDS, IMAGES, LABELS, trained_model

import ringfeed

BATCH_SIZE, PREFETCH = 64, 2


def produce(ring_name: str) -> None:
    with ringfeed.Ring.attach(ring_name) as ring, ring.producing():
        for image, label in zip(IMAGES, LABELS, strict=True):
            ring.put({"image": image, "label": label})


if __name__ == "__main__":  # multiprocessing imports this file in the producer
    import tensorflow as tf

    model = trained_model()
    fields = {**FIELDS, "label": ((), "int64")}
    with ringfeed.Ring.create(None, fields, slots=(PREFETCH + 2) * BATCH_SIZE) as ring:
        producer = multiprocessing.get_context("spawn").Process(target=produce, args=[ring.name])
        producer.start()
        structure = ("image", "label")
        batches = tf.data.Dataset.from_generator(
            ringfeed.tf.generator(ring, BATCH_SIZE, structure=structure),
            output_signature=ringfeed.tf.element_spec(ring, structure=structure),
        ).prefetch(PREFETCH)
        right = rows = 0
        for images, labels in batches:
            probabilities = model(images)
            right += int(tf.reduce_sum(tf.cast(tf.argmax(probabilities, axis=1) == labels, tf.int32)))
            rows += len(labels)
        producer.join()
    print(f"accuracy {right / rows:.3f} on {rows} digits")
