"""`keras.utils.PyDataset` with worker processes, written as Keras' documentation of that class shows it.

A batch per item of the data set, `use_multiprocessing=True` and as many workers as everyone has; `max_queue_size` is
the default. Keras forks the workers anew for each `predict`, from a thread of the process in which TensorFlow runs,
and has the first two batches made once more beforehand, to see their shape: both are part of what is measured.
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
