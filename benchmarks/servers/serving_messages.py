"""TensorFlow Serving's messages and stub, from its own package, without importing all of TensorFlow into a client.

`tensorflow_serving.apis` needs only message classes of TensorFlow, but their import runs `tensorflow/__init__.py`. That
takes four seconds and hundreds of megabytes per process. This module skips that file if TensorFlow is not loaded yet.
Therefore such a process cannot use TensorFlow afterwards. The classes and the cost of a call are the same.
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
