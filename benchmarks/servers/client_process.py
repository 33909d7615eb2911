"""A client's process: on command it sends requests to one server and measures the time of each reply.

It holds a connection to every server, so that rounds of the servers can alternate; all connections but one are idle.
Knows no server and imports no TensorFlow.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np

from measuring.helper_process import follow_the_parent
from servers.interface import Connection, Connector
from servers.model import MODELS, SHAPE
from servers.server_process import SPAWN, end

PICTURES = 8  # per client, all different, so that a reply to another request is noticed
ANSWER_SECONDS = 100.0


@dataclass(frozen=True)
class Stint:
    """Consecutive requests of one client, timed by the clock that all processes share."""

    started_seconds: float
    ended_seconds: float
    latencies_us: np.ndarray


class ClientProcess:
    """One client, with pictures of its own."""

    def __init__(self, number: int, model_name: str, connectors: Mapping[str, Connector]) -> None:
        self._orders, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_run, args=(theirs, number, model_name, connectors), daemon=True)
        self._process.start()
        theirs.close()

    def order(self, way: str, count: int) -> None:
        """Command the client to send `count` requests."""
        self._orders.send((way, count))

    def answer(self) -> Any:
        """Wait for the result of a command, a `Stint`. The first answer, None, comes after the client has connected."""
        if not self._orders.poll(ANSWER_SECONDS):
            raise RuntimeError(f"a client did not answer within {ANSWER_SECONDS:.0f} s")
        try:
            succeeded, answer = self._orders.recv()
        except EOFError:
            raise RuntimeError("a client's process ended") from None
        if not succeeded:
            raise RuntimeError(f"a client failed:\n{answer}")
        return answer

    def hang_up(self) -> None:
        """Command the client to end; `close` waits for the end."""
        self._orders.close()

    def close(self) -> None:
        self._orders.close()
        self._process.join(ANSWER_SECONDS / 10)
        end(self._process)


class Requests:
    """A client's pictures and the expected replies."""

    def __init__(self, number: int, model_name: str) -> None:
        self._images = np.random.default_rng(number).integers(0, 256, (PICTURES, *SHAPE), np.uint8)
        self._expected = [MODELS[model_name][1](image) for image in self._images]

    def send(self, way: str, connection: Connection, count: int) -> Stint:
        """Send `count` requests, one after the other; ValueError if a reply differs from NumPy's result."""
        replies = []
        times = [time.perf_counter()]
        for number in range(count):
            replies.append(connection.predict(self._images[number % PICTURES]))
            times.append(time.perf_counter())
        for number, reply in enumerate(replies):  # checks every reply, after the clock has stopped
            if not np.array_equal(reply, self._expected[number % PICTURES]):
                raise ValueError(f"{way}: reply {number} is {reply}, not {self._expected[number % PICTURES]}")
        return Stint(times[0], times[-1], np.diff(times) * 1e6)


def _run(orders: Pipe, number: int, model_name: str, connectors: Mapping[str, Connector]) -> None:
    follow_the_parent()
    connections: dict[str, Connection] = {}
    try:
        requests = Requests(number, model_name)
        for way, connector in connectors.items():
            connections[way] = connector()
        orders.send((True, None))
        while True:
            way, count = orders.recv()
            orders.send((True, requests.send(way, connections[way], count)))
    except EOFError:
        pass
    except BaseException:
        orders.send((False, traceback.format_exc()))
    finally:
        for connection in connections.values():
            connection.close()
