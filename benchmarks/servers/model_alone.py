"""The limit of every server: the model, called with existing tensors, in a loop that does nothing else."""

from __future__ import annotations

import time

import numpy as np

from servers.client_process import PICTURES, Stint
from servers.model import MODELS, SHAPE


class ModelAlone:
    """Calls a model like RingFeed's engine, which is the fastest known way."""

    def __init__(self, name: str) -> None:
        import tensorflow as tf  # takes seconds; pytest imports this module to collect

        from ringfeed.tf.models.direct_call import direct_call

        function, self._expected_of = MODELS[name]
        signature = [tf.TensorSpec((None, *SHAPE), tf.uint8)]
        self._call = direct_call(tf.function(function, signature, autograph=False).get_concrete_function())
        self._to_tensor = tf.constant

    def call(self, rows: int, count: int) -> Stint:
        """Call the model `count` times with different pictures; each picture counts as a request."""
        random = np.random.default_rng(rows)
        batches = [random.integers(0, 256, (rows, *SHAPE), np.uint8) for _ in range(PICTURES)]
        tensors = [self._to_tensor(batch) for batch in batches]
        outputs = []
        times = [time.perf_counter()]
        for number in range(count):
            outputs.append(self._call(tensors[number % PICTURES])[0].numpy())
            times.append(time.perf_counter())
        expected = [np.stack([self._expected_of(image) for image in batch]) for batch in batches]
        for number, output in enumerate(outputs):
            if not np.array_equal(output, expected[number % PICTURES]):
                raise ValueError(f"the model alone: call {number} gave {output}, not {expected[number % PICTURES]}")
        return Stint(times[0], times[-1], np.repeat(np.diff(times) * 1e6, rows))
