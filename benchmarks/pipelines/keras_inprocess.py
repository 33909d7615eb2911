"""Keras alone: preprocess in the model's process, stack, `model.predict`. This is the usual first version."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.interface import Job


class KerasInProcess:
    """`keras.Model.predict` on an array that the same process preprocessed."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def predict(self, items: Sequence[str]) -> np.ndarray:
        job = self._job
        samples = np.stack([job.preprocess(item) for item in items])
        return np.asarray(job.model.predict(samples, batch_size=job.batch_size, verbose=0))

    def close(self) -> None:
        """Nothing to end."""
