"""The model as mosec's workers. Imported only where mosec runs: its processes need this class by name."""

from __future__ import annotations

import os
import warnings

import numpy as np
from mosec import Worker

from servers.model import SHAPE, CallableModel

# A batch of pictures is over a megabyte. What mosec offers instead needs Redis, or a Plasma that pyarrow no longer has.
warnings.filterwarnings("ignore", "IPC data", RuntimeWarning)

MODEL_VARIABLE = "RINGFEED_BENCH_MODEL"  # mosec makes its workers without arguments


class OneByOne(Worker):
    """Bytes in, bytes out: mosec's JSON, or its msgpack mixin, would only add to it."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._model = CallableModel(os.environ[MODEL_VARIABLE])

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(SHAPE)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: np.ndarray) -> np.ndarray:
        return self._model([data])[0]


class Batching(OneByOne):
    """What mosec gives with `max_batch_size` above 1: a list in, a list out."""

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:  # type: ignore[override]
        return list(self._model(data))
