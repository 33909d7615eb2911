"""A gRPC server with TensorFlow Serving's messages, as in gRPC's documentation for Python.

TensorFlow Serving itself is a C++ program that is not on PyPI. This server has its protocol (`PredictRequest` and
`PredictResponse` from `tensorflow-serving-api`, the arrays as `tensor_content`, the method
`/tensorflow.serving.PredictionService/Predict`) over an insecure Unix socket, like `tensorflow_model_server
--grpc_socket_path`. It is one process with a `ThreadPoolExecutor` with a thread per client. Clients reuse channels and
stubs and make unary calls, which in Python are faster than streams. TCP, `grpc.aio`, and larger HTTP/2 frames and
windows made no difference larger than the noise.

Two ways: each request runs the model by itself, or one thread collects the waiting requests, like TensorFlow Serving's
batching with `num_batch_threads` 1, `max_batch_size` 32 and `batch_timeout_micros` 0. Both are services of one process.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from servers.interface import MOST_ROWS, Connector
from servers.model import SHAPE, CallableModel
from servers.server_process import ServerProcess, or_end_the_process
from servers.serving_messages import serving_messages

ONE_BY_ONE, BATCHING = "gRPC", "gRPC, batching"
DT_FLOAT, DT_UINT8 = 1, 4  # tensorflow.DataType
READY_SECONDS = 30.0


def missing() -> str | None:
    absent = [name for name in ("grpc", "tensorflow_serving") if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: pip install '.[peers]'" if absent else None


class GrpcConnection:
    """A channel and a stub."""

    def __init__(self, address: str) -> None:
        import grpc

        predict_pb2, service, tensor_pb2 = serving_messages()
        self._request, self._tensor = predict_pb2.PredictRequest, tensor_pb2.TensorProto
        self._channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(self._channel).result(READY_SECONDS)
        self._predict = service.PredictionServiceStub(self._channel).Predict
        self._shape = {"dim": [{"size": size} for size in (1, *SHAPE)]}

    def predict(self, image: np.ndarray) -> np.ndarray:
        # Without `tf.make_tensor_proto`, which does more work and needs TensorFlow.
        tensor = self._tensor(dtype=DT_UINT8, tensor_shape=self._shape, tensor_content=image.tobytes())
        response = self._predict(self._request(model_spec={"name": "model"}, inputs={"image": tensor}))
        return np.frombuffer(response.outputs["output"].tensor_content, np.float32)

    def close(self) -> None:
        self._channel.close()


class GrpcServer:
    """A process with two services on two Unix sockets."""

    def __init__(self, model_name: str, client_count: int) -> None:
        self._client_count = client_count
        self._process = ServerProcess(serve, model_name, client_count)

    def connectors(self) -> dict[str, list[Connector]]:
        addresses = self._process.address()
        return {way: [partial(GrpcConnection, address)] * self._client_count for way, address in addresses.items()}

    def close(self) -> None:
        self._process.close()


@contextmanager
def serve(model_name: str, client_count: int) -> Iterator[dict[str, str]]:
    import grpc
    import tensorflow  # noqa: F401  # the whole of it, ahead of its messages

    model = CallableModel(model_name)
    addresses = {}
    with ExitStack() as stack:
        runners = {ONE_BY_ONE: lambda image: model([image])[0], BATCHING: stack.enter_context(batching(model))}
        for number, (way, run) in enumerate(runners.items()):
            addresses[way] = f"unix-abstract:ringfeed-bench-{os.getpid()}-{number}"  # a socket without a file
            server = grpc.server(ThreadPoolExecutor(max_workers=client_count))
            add_service(server, run)
            server.add_insecure_port(addresses[way])
            server.start()
            stack.callback(lambda server=server: server.stop(None).wait())
        yield addresses


def add_service(server: Any, run: Callable[[np.ndarray], np.ndarray]) -> None:
    predict_pb2, service, tensor_pb2 = serving_messages()

    class PredictionService(service.PredictionServiceServicer):  # type: ignore[misc]
        def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
            tensor = request.inputs["image"]
            shape = [dimension.size for dimension in tensor.tensor_shape.dim]
            output = run(np.frombuffer(tensor.tensor_content, np.uint8).reshape(shape)[0])
            answer = tensor_pb2.TensorProto(
                dtype=DT_FLOAT,
                tensor_shape={"dim": [{"size": 1}, {"size": len(output)}]},
                tensor_content=output.tobytes(),
            )
            return predict_pb2.PredictResponse(model_spec=request.model_spec, outputs={"output": answer})

    service.add_PredictionServiceServicer_to_server(PredictionService(), server)


@contextmanager
def batching(model: CallableModel) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Return a function through which one thread runs the model for all waiting requests."""
    waiting: queue.SimpleQueue[tuple[np.ndarray, Future[np.ndarray]] | None] = queue.SimpleQueue()

    def run(image: np.ndarray) -> np.ndarray:
        future: Future[np.ndarray] = Future()
        waiting.put((image, future))
        return future.result()

    thread = threading.Thread(target=_run_batches, args=(model, waiting))
    thread.start()
    try:
        yield run
    finally:
        waiting.put(None)
        thread.join()


@or_end_the_process
def _run_batches(model: CallableModel, waiting: queue.SimpleQueue[Any]) -> None:
    while (first := waiting.get()) is not None:
        batch = [first]
        while len(batch) < MOST_ROWS and not waiting.empty():  # no other thread takes; None comes when no request waits
            batch.append(waiting.get())
        outputs = model([image for image, _ in batch])
        for (_, future), output in zip(batch, outputs, strict=True):
            future.set_result(output)
