"""The usual hand-written server: a `multiprocessing.Pipe` from each client to the model's process.

Two ways: `send`, as in the documentation, pickles the array; `send_bytes` sends its bytes. The model's process waits
for all pipes at once and runs all waiting requests as one batch. It registers its epoll set once, whereas
`multiprocessing.connection.wait` registers every pipe at each call. It has one thread, so nothing waits for the GIL.
"""

from __future__ import annotations

import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from servers.interface import MOST_ROWS, Connector
from servers.model import SHAPE, CallableModel, DirectModel
from servers.server_process import SPAWN, ServerProcess, or_end_the_process

SEND_BYTES, SEND = "Pipe, send_bytes", "Pipe, send"
DIRECT = "RingFeed's call by Pipe"


def missing() -> str | None:
    return None


class BytesConnection:
    """Sends an array's bytes; both ends know its shape and dtype."""

    def __init__(self, pipe: Connection, shape: tuple[int, ...], dtype: str) -> None:
        self._pipe, self._shape, self._dtype = pipe, shape, dtype
        self.close = pipe.close

    def send(self, array: np.ndarray) -> None:
        self._pipe.send_bytes(array.data.cast("B"))

    def receive(self) -> np.ndarray:
        return np.frombuffer(self._pipe.recv_bytes(), self._dtype).reshape(self._shape)

    def predict(self, image: np.ndarray) -> np.ndarray:
        self.send(image)
        return self.receive()


class PickledConnection:
    """Sends a pickled array."""

    def __init__(self, pipe: Connection) -> None:
        self.send, self.receive, self.close = pipe.send, pipe.recv, pipe.close

    def predict(self, image: np.ndarray) -> np.ndarray:
        self.send(image)
        return self.receive()


class PipeServer:
    """A process that answers requests from pipes."""

    _model: type[CallableModel] = CallableModel

    def __init__(self, model_name: str, client_count: int) -> None:
        pairs = {way: [SPAWN.Pipe() for _ in range(client_count)] for way in (SEND_BYTES, SEND)}
        self._ours = {way: [pipe for pipe, _ in ends] for way, ends in pairs.items()}
        theirs = {way: [pipe for _, pipe in ends] for way, ends in pairs.items()}
        self._process = ServerProcess(serve, model_name, theirs, self._model)
        _close(theirs)  # so that clients notice the end of the server's process

    def connectors(self) -> dict[str, list[Connector]]:
        self._process.address()
        return {
            SEND_BYTES: [partial(BytesConnection, pipe, (-1,), "float32") for pipe in self._ours[SEND_BYTES]],
            SEND: [partial(PickledConnection, pipe) for pipe in self._ours[SEND]],
        }

    def close(self) -> None:
        self._process.close()
        _close(self._ours)


class DirectPipeServer(PipeServer):
    """The faster of the two ways, with the model called like in RingFeed."""

    _model = DirectModel

    def connectors(self) -> dict[str, list[Connector]]:
        return {DIRECT: super().connectors()[SEND_BYTES]}


def _close(pipes: dict[str, list[Connection]]) -> None:
    for pipe in (pipe for pipes_of_a_way in pipes.values() for pipe in pipes_of_a_way):
        pipe.close()


@contextmanager
def serve(model_name: str, pipes: dict[str, list[Connection]], model_class: type[CallableModel]) -> Iterator[None]:
    model = model_class(model_name)
    stop, stopped = SPAWN.Pipe()
    with selectors.DefaultSelector() as selector:
        selector.register(stopped, selectors.EVENT_READ)
        for pipe in pipes[SEND_BYTES]:
            selector.register(pipe, selectors.EVENT_READ, BytesConnection(pipe, SHAPE, "uint8"))
        for pipe in pipes[SEND]:
            selector.register(pipe, selectors.EVENT_READ, PickledConnection(pipe))
        thread = threading.Thread(target=_answer, args=(model, selector))
        thread.start()
        try:
            yield
        finally:
            stop.close()
            thread.join()


@or_end_the_process
def _answer(model: CallableModel, selector: selectors.BaseSelector) -> None:
    while True:
        ready: list[Any] = [key.data for key, _ in selector.select()[:MOST_ROWS]]
        if None in ready:
            return
        outputs = model([connection.receive() for connection in ready])
        for connection, output in zip(ready, outputs, strict=True):
            connection.send(output)
