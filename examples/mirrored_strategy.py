"""A model under tf.distribute.MirroredStrategy: each batch is split over the strategy's replicas.

This is for models that are already made for a strategy, or whose replicas must run in step. Otherwise replicas that
take whole batches (data_parallel.py) wait less. Here the processor is split into two logical devices, so that the
example runs anywhere; with GPUs omit that and use ``MirroredStrategy()``, which takes all of them. Run it with
``python examples/mirrored_strategy.py``. It fails unless every answer equals that of a direct call.
"""

import numpy as np
import tensorflow as tf
from digits import FIELDS, IMAGES, accuracy, trained_model, untrained_model

import ringfeed

processor = tf.config.list_physical_devices("CPU")[0]  # before TensorFlow is first used
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

trained = trained_model()
with strategy.scope():  # each device has a copy of each weight
    model = untrained_model()
model.set_weights(trained.get_weights())

with (
    ringfeed.Ring.create(None, FIELDS, slots=256) as ring,
    ringfeed.Engine(ring, model, batch_size=64, strategy=strategy) as engine,
    ringfeed.Client(ring) as client,
):
    served = client.predict(IMAGES)  # each row is a separate request
    batches = engine.stats().batches

np.testing.assert_allclose(served, trained(IMAGES), atol=1e-3)
print(f"{batches} batches, each split over {strategy.num_replicas_in_sync} replicas")
print(f"{len(served)} rows answered as by direct calls; accuracy {accuracy(served):.3f}")
