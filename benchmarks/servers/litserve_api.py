"""The model as LitServe's API. Only LitServe's processes import this module; they need the class by name.

It has no `from __future__ import annotations`, because LitServe reads the type of `request` as an object.
"""

from collections.abc import Sequence
from typing import Annotated

import litserve as ls
import numpy as np
from fastapi import Body, Response

from servers.model import SHAPE, CallableModel

BINARY = "application/octet-stream"
RawBody = Annotated[bytes, Body(media_type=BINARY)]  # LitServe's default is JSON, or a form


class OneByOne(ls.LitAPI):
    """Takes and returns bytes."""

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
    """For `max_batch_size` above 1: `predict` takes the result of `batch` and returns a sequence."""

    def batch(self, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return inputs  # the model stacks them

    def predict(self, x: Sequence[np.ndarray]) -> np.ndarray:  # type: ignore[override]
        return self._model(x)
