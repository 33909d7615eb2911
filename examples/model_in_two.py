"""A model in two parts, for models that do not fit on one device: each batch passes from part to part.

`split_model` cuts a Keras model after a layer. `Pipeline` serves the parts on separate devices, joined by a ring, and
both parts work at the same time. The example then does the same with two processes: each has an engine, and the first
one puts into the ring of the second one. Here the processor is split into two logical devices; with GPUs omit that and
pass ``devices=["GPU:0", "GPU:1"]``. Run it with ``python examples/model_in_two.py``. It fails unless every answer of
both ways equals that of a direct call of the whole model.
"""

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np

import ringfeed

CUT_BEHIND = ["edges"]


def serve_second_part(model_file: Path, ring_name: str, second_ring_name: str) -> None:
    """Serve the second part; its answers go to the requests that were put into the first ring."""
    import keras

    second_part = ringfeed.split_model(keras.models.load_model(model_file), at=CUT_BEHIND)[1]
    with ringfeed.Ring.attach(ring_name) as ring, ringfeed.Ring.attach(second_ring_name) as second_ring:
        ringfeed.StageEngine(
            second_ring, second_part, batch_size=32, first_ring=ring
        ).run()  # until the ring is finished


if __name__ == "__main__":  # multiprocessing imports this file in the second process
    import tensorflow as tf
    from digits import FIELDS, IMAGES, accuracy, trained_model

    processor = tf.config.list_physical_devices("CPU")[0]  # before TensorFlow is first used
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    model = trained_model()
    direct = model(IMAGES).numpy()
    first_part, second_part = ringfeed.split_model(model, at=CUT_BEHIND)
    handed_on = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in first_part.output.items()}

    with ringfeed.Pipeline([first_part, second_part], devices=["CPU:0", "CPU:1"], batch_size=32) as pipeline:
        served = pipeline.predict(IMAGES)
        batches = [stage.batches for stage in pipeline.stats()]
    np.testing.assert_allclose(served, direct, atol=1e-3)
    print(f"two devices of one process, {batches} batches: as the whole model, accuracy {accuracy(served):.3f}")

    with (
        tempfile.TemporaryDirectory() as folder,
        ringfeed.Ring.create(None, FIELDS, slots=256) as ring,
        ringfeed.Ring.create(None, handed_on, slots=256) as second_ring,
    ):
        model.save(file := Path(folder) / "digits.keras")
        arguments = file, ring.name, second_ring.name
        process = multiprocessing.get_context("spawn").Process(target=serve_second_part, args=arguments, daemon=True)
        process.start()
        with (
            ringfeed.StageEngine(ring, first_part, batch_size=32, next_ring=second_ring),  # waits for the second part
            ringfeed.Client(ring) as client,
        ):
            served = client.predict(IMAGES)
        second_ring.finish()
        process.join()
    np.testing.assert_allclose(served, direct, atol=1e-3)
    print(f"two processes: as the whole model, accuracy {accuracy(served):.3f}")
