"""The model as mosec's workers. Only mosec's processes import this module; they need the classes by name."""

from __future__ import annotations

import os
import warnings

import numpy as np
from mosec import Worker

from servers.model import SHAPE, CallableModel

# A batch of pictures is over a megabyte. mosec's alternatives need Redis, or Plasma, which pyarrow no longer has.
warnings.filterwarnings("ignore", "IPC data", RuntimeWarning)

MODEL_VARIABLE = "RINGFEED_BENCH_MODEL"  # mosec makes its workers without arguments


class OneByOne(Worker):
    """Takes and returns bytes, because mosec's JSON or its msgpack mixin would only add cost."""

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
    """For `max_batch_size` above 1: takes and returns a list."""

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:  # type: ignore[override]
        return list(self._model(data))
