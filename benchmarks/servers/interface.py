"""What every server of the comparison gets and owes, and which there are. Knows no server and no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

MOST_ROWS = 32  # in a batch, for whoever batches


class Connection(Protocol):
    """One client's end. Used by one thread, one request at a time."""

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Send a picture of shape (224, 224, 3), dtype uint8, and return the model's outputs for it, float32."""
        ...

    def close(self) -> None: ...


Connector = Callable[[], Connection]


class Server(Protocol):
    """A process with a model. Started by the constructor, without waiting for it."""

    def __init__(self, model_name: str, client_count: int) -> None: ...

    def connectors(self) -> dict[str, Sequence[Connector]]:
        """Wait until the model is warm; return for each way to ask one connector per client.

        They are picklable while a process is being started, and each is used by one process.
        """
        ...

    def close(self) -> None:
        """End every process that was started. Called once, also where `connectors` raised."""
        ...


@runtime_checkable
class RestlessServer(Server, Protocol):
    """A server that is busy while nobody asks it: so it is held while the others are asked."""

    def rest(self) -> None:
        """Stop what is busy."""
        ...

    def wake(self) -> None:
        """Let it go on."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where to find a server, and the ways in which it can be asked, as they are called in the tables.

    `optional` says that a quick run, which measures nothing, can do without: another entry runs the same code.
    """

    module: str
    class_name: str
    ways: tuple[str, ...]
    optional: bool = False

    def missing(self) -> str | None:
        """Why this server can not run here; None where it can."""
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
