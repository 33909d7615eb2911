"""One model on several devices: a replica on each, and whoever is free takes the next batch from the ring.

Here the processor is split into two logical devices, so that it runs anywhere; that shows how, and gains no time. On a
machine with two GPUs leave out `set_logical_device_configuration`, and say ``devices=["GPU:0", "GPU:1"]``: nothing else
changes. docs/devices.md says when to use this, and when one of the other ways. Run it by
``python examples/data_parallel.py``. It fails unless every answer is what the model returns when called directly.
"""

import numpy as np
import tensorflow as tf
from digits import FIELDS, IMAGES, accuracy, trained_model

import ringfeed

DEVICES = ["CPU:0", "CPU:1"]

processor = tf.config.list_physical_devices("CPU")[0]  # before TensorFlow is first used
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * len(DEVICES))

model = trained_model()
with (
    ringfeed.Ring.create(None, FIELDS, slots=256) as ring,
    ringfeed.Engine(ring, model, batch_size=32, devices=DEVICES) as engine,  # copies the model to the second device
    ringfeed.Client(ring) as client,
):
    served = client.predict(IMAGES)  # rows: each is a request of its own
    stats = engine.stats()

np.testing.assert_allclose(served, model(IMAGES), rtol=1e-4, atol=1e-5)
for device, rows in zip(stats.devices, stats.device_rows, strict=True):
    print(f"{device} ran {rows} rows, {rows / stats.rows:.0%}")
print(f"{len(served)} rows answered as by direct calls; accuracy {accuracy(served):.3f}")
