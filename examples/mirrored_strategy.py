"""A model under tf.distribute.MirroredStrategy: each batch is split over the strategy's replicas.

For models that are made for a strategy already, or whose replicas must be in step; else replicas that take whole
batches (data_parallel.py) have less to wait for. Here the processor is split into two logical devices, so that it runs
anywhere; with GPUs leave that out, and say ``MirroredStrategy()``, which takes all of them. Run it by
``python examples/mirrored_strategy.py``. It fails unless every answer is what the model returns when called directly.
"""

import numpy as np
import tensorflow as tf
from digits import FIELDS, IMAGES, accuracy, trained_model, untrained_model

import ringfeed

processor = tf.config.list_physical_devices("CPU")[0]  # before TensorFlow is first used
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

trained = trained_model()
with strategy.scope():  # each weight is there once per device
    model = untrained_model()
model.set_weights(trained.get_weights())

with (
    ringfeed.Ring.create(None, FIELDS, slots=256) as ring,
    ringfeed.Engine(ring, model, batch_size=64, strategy=strategy) as engine,
    ringfeed.Client(ring) as client,
):
    served = client.predict(IMAGES)  # rows: each is a request of its own
    batches = engine.stats().batches

np.testing.assert_allclose(served, trained(IMAGES), rtol=1e-4, atol=1e-5)
print(f"{batches} batches, each split over {strategy.num_replicas_in_sync} replicas")
print(f"{len(served)} rows answered as by direct calls; accuracy {accuracy(served):.3f}")
