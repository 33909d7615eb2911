"""mosec: an HTTP server in Rust before a worker process in Python, set up as its documentation shows it.

Two ways, a server for each: one request at a time, and batches of up to as many rows as there are clients, so that a
batch in which everybody is waits for no one. For a smaller batch mosec waits at least a millisecond, the least that
`max_wait_time` can be; one client has no use for that. Clients keep their connection (`http.client`, the leanest one
that Python has) and send the picture's bytes.
"""

from __future__ import annotations

import http.client
import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from functools import partial

import numpy as np

from servers.interface import Connector
from servers.model import SHAPE
from servers.server_process import END_SECONDS, SPAWN, START_SECONDS, end

HOST = "127.0.0.1"


def missing() -> str | None:
    return None if importlib.util.find_spec("mosec") else "mosec not installed: pip install '.[peers]'"


class MosecConnection:
    """A kept HTTP connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port)
        self.close = self._connection.close

    def predict(self, image: np.ndarray) -> np.ndarray:
        self._connection.request("POST", "/inference", image.data.cast("B"))
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"mosec answered {response.status}: {body!r}")
        return np.frombuffer(body, np.float32)


class MosecServer:
    """A process that runs mosec, which starts processes of its own and so is no daemon."""

    way, worker = "mosec", "OneByOne"

    def __init__(self, model_name: str, client_count: int) -> None:
        self._client_count = client_count
        self._port = free_port()
        self._process = SPAWN.Process(target=_run, args=(model_name, self.worker, client_count, self._port))
        self._process.start()

    def connectors(self) -> dict[str, list[Connector]]:
        self._wait_for_an_answer()
        return {self.way: [partial(MosecConnection, self._port)] * self._client_count}

    def _wait_for_an_answer(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            connection = MosecConnection(self._port)
            try:
                connection.predict(np.zeros(SHAPE, np.uint8))
                return
            except (
                OSError,
                http.client.HTTPException,
                RuntimeError,
            ):  # RuntimeError: it waited too long for its worker
                if not self._process.is_alive() or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            finally:
                connection.close()

    def close(self) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid, signal.SIGTERM)  # on which mosec ends its own processes
        self._process.join(2 * END_SECONDS)
        end(self._process)


class BatchingMosecServer(MosecServer):
    """The same, with mosec's dynamic batching."""

    way, worker = "mosec, batching", "Batching"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _run(model_name: str, worker: str, client_count: int, port: int) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # mosec reads the command line, which here is the benchmark's.
    sys.argv = ["mosec", "--address", HOST, "--port", str(port), "--log-level", "error"]
    from mosec import Server

    from servers import mosec_workers

    logging.getLogger("mosec").setLevel(logging.ERROR)
    os.environ[mosec_workers.MODEL_VARIABLE] = model_name
    server = Server()
    rows = max(2, client_count) if worker == "Batching" else 1
    server.append_worker(getattr(mosec_workers, worker), max_batch_size=rows, max_wait_time=1)
    server.run()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
