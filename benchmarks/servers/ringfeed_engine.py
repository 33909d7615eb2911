"""RingFeed: clients write into the ring's slots, an engine runs the model on what is there and sends the replies back.

The engine takes up to 32 rows and waits for no more once there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from servers.interface import MOST_ROWS, RINGFEED, Connector
from servers.model import MODELS, SHAPE
from servers.server_process import ServerProcess

SLOTS = 256
WARM_UP_REQUESTS = 3


def missing() -> str | None:
    try:
        import ringfeed
    except ImportError as error:
        return f"ringfeed can not be imported: {error}"
    absent = [name for name in ("Engine", "Client") if not hasattr(ringfeed, name)]
    return f"ringfeed has no {' and no '.join(absent)} yet" if absent else None


class RingFeedConnection:
    """A client of the engine."""

    def __init__(self, name: str) -> None:
        import ringfeed

        self._client: Any = ringfeed.Client(name)

    def predict(self, image: np.ndarray) -> np.ndarray:
        outputs: np.ndarray = self._client.predict({"image": image})
        return outputs

    def close(self) -> None:
        self._client.close()


class RingFeedEngine:
    """A process with a ring and an engine."""

    def __init__(self, model_name: str, client_count: int) -> None:
        self._client_count = client_count
        self._name = f"bench-engine-{os.getpid()}"
        self._process = ServerProcess(serve, self._name, model_name)

    def connectors(self) -> dict[str, list[Connector]]:
        self._process.address()
        return {RINGFEED: [partial(RingFeedConnection, self._name)] * self._client_count}

    def close(self) -> None:
        self._process.close()
        from ringfeed import clean

        clean(self._name)  # where the process could not


@contextmanager
def serve(name: str, model_name: str) -> Iterator[None]:
    import ringfeed

    with ringfeed.Ring.create(name, {"image": (SHAPE, "uint8")}, slots=SLOTS) as ring:
        engine: Any = ringfeed.Engine(ring, MODELS[model_name][0], batch_size=MOST_ROWS, linger=0.0)
        engine.start()
        try:
            connection = RingFeedConnection(name)
            for _ in range(WARM_UP_REQUESTS):
                connection.predict(np.zeros(SHAPE, np.uint8))
            connection.close()
            yield
        finally:
            engine.stop()
