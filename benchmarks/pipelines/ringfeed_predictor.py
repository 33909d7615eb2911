"""RingFeed: one object, started once, with the signature of `keras.Model.predict`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.interface import Job
from ringfeed import Predictor


class RingFeedPredictor:
    """`ringfeed.Predictor`: worker processes preprocess directly into the ring."""

    def __init__(self, job: Job) -> None:
        self._predictor = Predictor(
            job.model, preprocess=job.preprocess, workers=job.worker_count, batch_size=job.batch_size
        )
        self._predictor.__enter__()

    def predict(self, items: Sequence[str]) -> np.ndarray:
        return np.asarray(self._predictor.predict(items, verbose=0))

    def close(self) -> None:
        self._predictor.__exit__(None, None, None)
