"""RingFeed: clients write into the ring's slots; an engine runs the model on the ready rows and sends the replies.

The engine takes up to 32 rows and does not wait for more rows once there is one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np

from servers.interface import MOST_ROWS, RINGFEED, Connector
from servers.model import MODELS, SHAPE
from servers.server_process import SPAWN, ServerProcess

SLOTS = 256
WARM_UP_REQUESTS = 3

Reading = dict[str, tuple[int, int, list[int]]]  # stage -> count, nanoseconds and histogram of the engine's meter


def missing() -> str | None:
    try:
        import ringfeed
    except ImportError as error:
        return f"ringfeed cannot be imported: {error}"
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
        self._questions, theirs = SPAWN.Pipe()
        self._process = ServerProcess(serve, self._name, model_name, theirs)
        theirs.close()

    def connectors(self) -> dict[str, list[Connector]]:
        self._process.address()
        return {RINGFEED: [partial(RingFeedConnection, self._name)] * self._client_count}

    def stages(self) -> Reading:
        """Return the times of each stage so far from the engine's meter."""
        self._questions.send(None)
        reading: Reading = self._questions.recv()
        return reading

    def close(self) -> None:
        self._process.close()
        self._questions.close()
        from ringfeed import clean

        clean(self._name)  # if the process could not


def medians_us(before: Reading, after: Reading) -> dict[str, float]:
    """Return the median time of each stage between two readings; the histogram makes it at most a quarter too large."""
    from ringfeed.engine.metrics import PhaseTimes

    found = {}
    for stage, (count, total, buckets) in after.items():
        old_count, old_total, old_buckets = before[stage]
        grown = [new - old for new, old in zip(buckets, old_buckets, strict=True)]
        found[stage] = PhaseTimes.of(count - old_count, total - old_total, grown).p50_seconds * 1e6
    return found


@contextmanager
def serve(name: str, model_name: str, questions: Pipe) -> Iterator[None]:
    import ringfeed

    with ringfeed.Ring.create(name, {"image": (SHAPE, "uint8")}, slots=SLOTS) as ring:
        engine: Any = ringfeed.Engine(ring, MODELS[model_name][0], batch_size=MOST_ROWS, linger=0.0)
        engine.start()
        try:
            connection = RingFeedConnection(name)
            for _ in range(WARM_UP_REQUESTS):
                connection.predict(np.zeros(SHAPE, np.uint8))
            connection.close()
            threading.Thread(target=_tell_stages, args=(questions, engine.meter), daemon=True).start()
            yield
        finally:
            engine.stop()


def _tell_stages(questions: Pipe, meter: Any) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            questions.recv()
            questions.send(meter.read())
