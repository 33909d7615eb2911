"""tf.data as its guide recommends: everything in TensorFlow's own operations, without Python or the GIL per item.

It supports only preprocessing that TensorFlow's operations can express; workloads.py says which, and how much the
results may differ. The number of parallel calls and the autotuner are as in tf_data_numpy_function.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipelines.interface import Job, Workload
from pipelines.tf_data_numpy_function import PREFETCHED_BATCHES


def missing(workload: Workload) -> str | None:
    return None if workload.in_tensorflow else workload.not_in_tensorflow


class TfDataNative:
    """`keras.Model.predict` on a tf.data pipeline that reads, decodes and resizes."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._options = tf.data.Options()
        self._options.autotune.enabled = False

    def predict(self, items: Sequence[str]) -> np.ndarray:
        job = self._job
        dataset = tf.data.Dataset.from_tensor_slices(list(items))
        dataset = dataset.map(job.in_tensorflow, num_parallel_calls=job.worker_count)
        dataset = dataset.batch(job.batch_size).prefetch(PREFETCHED_BATCHES).with_options(self._options)
        return np.asarray(job.model.predict(dataset, verbose=0))

    def close(self) -> None:
        """Nothing to end: the threads belong to TensorFlow's runtime."""
