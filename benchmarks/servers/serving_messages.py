"""TensorFlow Serving's messages and stub, from its own package, without importing all of TensorFlow into a client.

`tensorflow_serving.apis` needs only message classes of TensorFlow, but importing those runs `tensorflow/__init__.py`:
four seconds and hundreds of megabytes per process. Here that file is passed over where TensorFlow is not loaded yet,
so not to be used in a process that wants to compute with TensorFlow afterwards. The classes, and what a call costs,
are the same.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


def serving_messages() -> tuple[Any, Any, Any]:
    """Return the modules `predict_pb2`, `prediction_service_pb2_grpc` and `tensor_pb2`."""
    if "tensorflow" not in sys.modules:
        specification = importlib.util.find_spec("tensorflow")
        assert specification is not None
        bare = ModuleType("tensorflow")
        bare.__path__ = list(specification.submodule_search_locations or [])
        sys.modules["tensorflow"] = bare
    from tensorflow.core.framework import tensor_pb2
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    return predict_pb2, prediction_service_pb2_grpc, tensor_pb2
