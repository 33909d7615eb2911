"""mosec: an HTTP server in Rust in front of a worker process in Python, as in its documentation.

Two ways, with a server for each: one request at a time, and batches of at most as many rows as there are clients, so
that a batch with a row of every client does not wait. For a smaller batch mosec waits at least a millisecond, the least
`max_wait_time`; a single client always waits that long. Clients keep their connection and send the picture's bytes.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import signal
import sys
import threading
from functools import partial

from servers.http_client import HOST, HttpConnection, free_port, wait_for_an_answer
from servers.interface import Connector
from servers.server_process import END_SECONDS, SPAWN, end

PATH = "/inference"


def missing() -> str | None:
    return None if importlib.util.find_spec("mosec") else "mosec not installed: pip install '.[peers]'"


class MosecServer:
    """A process that runs mosec. It is not daemonic, because mosec starts processes."""

    way, worker = "mosec", "OneByOne"

    def __init__(self, model_name: str, client_count: int) -> None:
        self._client_count = client_count
        self._port = free_port()
        self._process = SPAWN.Process(target=_run, args=(model_name, self.worker, client_count, self._port))
        self._process.start()

    def connectors(self) -> dict[str, list[Connector]]:
        wait_for_an_answer(self._port, PATH, self._process)
        return {self.way: [partial(HttpConnection, self._port, PATH)] * self._client_count}

    def close(self) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid, signal.SIGTERM)  # on which mosec ends its own processes
        self._process.join(2 * END_SECONDS)
        end(self._process)


class BatchingMosecServer(MosecServer):
    """The same with mosec's dynamic batching."""

    way, worker = "mosec, batching", "Batching"


def _run(model_name: str, worker: str, client_count: int, port: int) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # mosec reads the command line, which belongs to the benchmark here.
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
