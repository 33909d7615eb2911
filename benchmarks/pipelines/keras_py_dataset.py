"""`keras.utils.PyDataset` with worker processes, as in Keras's documentation of that class.

Each item of the data set is a batch, with `use_multiprocessing=True`, the same number of workers as all pipelines, and
the default `max_queue_size`. For each `predict` Keras forks new workers from a thread of TensorFlow's process, and
makes the first two batches once more to see their shape. Both count as part of the measured time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np

from pipelines.interface import Job, Preprocess


class Batches(keras.utils.PyDataset):
    """Item `index` is a whole batch."""

    def __init__(
        self, items: Sequence[str], preprocess: Preprocess, batch_size: int, *, workers: int, use_multiprocessing: bool
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=use_multiprocessing)
        self._items, self._preprocess, self._batch_size = items, preprocess, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._items) / self._batch_size)

    def __getitem__(self, index: int) -> np.ndarray:
        first = index * self._batch_size
        return np.stack([self._preprocess(item) for item in self._items[first : first + self._batch_size]])


class KerasPyDataset:
    """`keras.Model.predict` on a `PyDataset`."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def predict(self, items: Sequence[str]) -> np.ndarray:
        job = self._job
        batches = Batches(items, job.preprocess, job.batch_size, workers=job.worker_count, use_multiprocessing=True)
        return np.asarray(job.model.predict(batches, verbose=0))

    def close(self) -> None:
        """Nothing to end: Keras ends its pool after each `predict`."""
