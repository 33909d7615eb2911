"""Shared by the HTTP servers: a client that keeps its connection, and a free port.

`http.client` is the fastest client in Python; `requests` and `httpx` take several times as long for a request.
"""

from __future__ import annotations

import http.client
import socket
import time
from typing import Any

import numpy as np

from servers.model import SHAPE
from servers.server_process import START_SECONDS

HOST = "127.0.0.1"
HEADERS = {"Content-Type": "application/octet-stream"}


class HttpConnection:
    """A kept connection that sends the picture's bytes and receives the outputs' bytes."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection(HOST, port)
        self._path = path
        self.close = self._connection.close

    def predict(self, image: np.ndarray) -> np.ndarray:
        self._connection.request("POST", self._path, image.data.cast("B"), HEADERS)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{self._path} answered {response.status}: {body!r}")
        return np.frombuffer(body, np.float32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_an_answer(port: int, path: str, process: Any) -> None:
    """Wait until the server answers; raise the connection's error if the server has ended or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = HttpConnection(port, path)
        try:
            connection.predict(np.zeros(SHAPE, np.uint8))
            return
        except (OSError, http.client.HTTPException, RuntimeError):  # RuntimeError: it waited too long for its worker
            if not process.is_alive() or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            connection.close()
