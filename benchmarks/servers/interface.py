"""The interface of all servers of the comparison, and their list. Knows no server and no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

MOST_ROWS = 32  # most rows in a batch of the batching servers


class Connection(Protocol):
    """A client's connection. One thread uses it, one request at a time."""

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Send a picture of shape (224, 224, 3), dtype uint8, and return the model's outputs for it, float32."""
        ...

    def close(self) -> None: ...


Connector = Callable[[], Connection]


class Server(Protocol):
    """A process with a model. Started by the constructor, without waiting for it."""

    def __init__(self, model_name: str, client_count: int) -> None: ...

    def connectors(self) -> dict[str, Sequence[Connector]]:
        """Wait until the model is warm; return one connector per client for each way.

        Connectors are picklable during the start of a process, and one process uses each.
        """
        ...

    def close(self) -> None:
        """End every started process. Called once, also after an error of `connectors`."""
        ...


@runtime_checkable
class RestlessServer(Server, Protocol):
    """A server that is busy even without requests, and is therefore held during the rounds of the others."""

    def rest(self) -> None:
        """Stop the busy processes."""
        ...

    def wake(self) -> None:
        """Continue the stopped processes."""
        ...


@dataclass(frozen=True)
class Entry:
    """The module of a server, and the names of its ways in the tables.

    `optional` marks an entry whose code another entry also runs; a smoke run, which measures nothing, omits it.
    """

    module: str
    class_name: str
    ways: tuple[str, ...]
    optional: bool = False

    def missing(self) -> str | None:
        """Return why this server cannot run here; None if it can."""
        reason: str | None = importlib.import_module(self.module).missing()
        return reason

    def load(self) -> type[Server]:
        server: type[Server] = getattr(importlib.import_module(self.module), self.class_name)
        return server


RINGFEED = "RingFeed"
SERVERS = (
    Entry("servers.ringfeed_engine", "RingFeedEngine", (RINGFEED,)),
    Entry("servers.pipe_server", "PipeServer", ("Pipe, send_bytes", "Pipe, send")),
    Entry("servers.pipe_server", "DirectPipeServer", ("RingFeed's call by Pipe",), optional=True),
    Entry("servers.grpc_server", "GrpcServer", ("gRPC", "gRPC, batching")),
    Entry("servers.mosec_server", "MosecServer", ("mosec",)),
    Entry("servers.mosec_server", "BatchingMosecServer", ("mosec, batching",), optional=True),
    Entry("servers.litserve_server", "LitServeServer", ("LitServe",), optional=True),
    Entry("servers.litserve_server", "BatchingLitServeServer", ("LitServe, batching",)),
)
MODEL_ALONE = "limit: the model alone, with ready tensors"
WAYS = tuple(way for entry in SERVERS for way in entry.ways)
