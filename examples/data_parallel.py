"""One model on several devices: each device has a replica, and a free replica takes the next batch from the ring.

Here the processor is split into two logical devices, so that the example runs anywhere; it does not get faster by that.
On a machine with two GPUs omit `set_logical_device_configuration` and pass ``devices=["GPU:0", "GPU:1"]``; nothing else
changes. docs/devices.md compares this with the other ways. Run it with ``python examples/data_parallel.py``. It fails
unless every answer equals that of a direct call.
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
    served = client.predict(IMAGES)  # each row is a separate request
    stats = engine.stats()

np.testing.assert_allclose(served, model(IMAGES), atol=1e-3)
for device, rows in zip(stats.devices, stats.device_rows, strict=True):
    print(f"{device} ran {rows} rows, {rows / stats.rows:.0%}")
print(f"{len(served)} rows answered as by direct calls; accuracy {accuracy(served):.3f}")
