"""The model as LitServe's API. Imported only where LitServe runs: its processes need this class by name.

Without `from __future__ import annotations`: LitServe reads the type of `request` as an object.
"""

from collections.abc import Sequence
from typing import Annotated

import litserve as ls
import numpy as np
from fastapi import Body, Response

from servers.model import SHAPE, CallableModel

BINARY = "application/octet-stream"
RawBody = Annotated[bytes, Body(media_type=BINARY)]  # by default LitServe wants JSON, or a form


class OneByOne(ls.LitAPI):
    """Bytes in, bytes out."""

    def __init__(self, model_name: str, **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._model_name = model_name

    def setup(self, device: str) -> None:
        self._model = CallableModel(self._model_name)

    def decode_request(self, request: RawBody) -> np.ndarray:
        return np.frombuffer(request, np.uint8).reshape(SHAPE)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._model([x])[0]

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type=BINARY)


class Batching(OneByOne):
    """What LitServe gives with `max_batch_size` above 1: what `batch` returned in, a sequence out."""

    def batch(self, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return inputs  # the model puts them together

    def predict(self, x: Sequence[np.ndarray]) -> np.ndarray:  # type: ignore[override]
        return self._model(x)
