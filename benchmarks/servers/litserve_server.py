"""LitServe: an HTTP server in Python (FastAPI) in front of a worker process, as in its documentation.

Two ways, with a server for each: one request at a time, and batches (`max_batch_size`, `batch_timeout`) of at most as
many rows as there are clients. There is one worker for the one model, and thus one API server, which is the default.
`fast_queue=True`, which the documentation recommends above 100 requests per second. Raw bytes in both directions; the
documentation's examples use JSON, which is slower.

Without requests, a batching worker polls a thousand times per second and asks another process each time, which takes a
seventh of a core. Therefore it is stopped (SIGSTOP) while the others are measured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import tempfile
import threading
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from servers.http_client import HOST, HttpConnection, free_port, wait_for_an_answer
from servers.interface import Connector
from servers.server_process import END_SECONDS, SPAWN, end

PATH = "/predict"
KEEP_ALIVE_SECONDS = 3600  # connections are idle during the rounds of the others
BATCH_TIMEOUT_SECONDS = 0.001  # with 0 its worker would poll without a pause


def missing() -> str | None:
    absent = [name for name in ("litserve", "psutil") if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: pip install '.[peers,test]'" if absent else None


class LitServeServer:
    """A process that runs LitServe. It is not daemonic, because LitServe starts processes."""

    way, api = "LitServe", "OneByOne"

    def __init__(self, model_name: str, client_count: int) -> None:
        self._client_count = client_count
        self._port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="ringfeed-litserve-", ignore_cleanup_errors=True)
        self._orders, theirs = SPAWN.Pipe()
        arguments = (theirs, self._folder.name, model_name, self.api, client_count, self._port)
        self._process = SPAWN.Process(target=_run, args=arguments)
        self._process.start()
        theirs.close()
        self._serves = False
        self._started: list[Any] = []

    def connectors(self) -> dict[str, list[Connector]]:
        wait_for_an_answer(self._port, PATH, self._process)
        self._serves = True
        self._started = self._family()
        return {self.way: [partial(HttpConnection, self._port, PATH)] * self._client_count}

    def close(self) -> None:
        started = {*self._started, *self._family()}
        self._orders.close()  # a serving LitServe ends its processes on this signal
        if self._serves:
            self._process.join(END_SECONDS)
        import psutil

        for member in started | {*self._family()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        end(self._process)
        self._folder.cleanup()

    def _family(self) -> list[Any]:
        """Find the processes that it started, and theirs; in one that does not serve yet they might become more."""
        import psutil

        if not self._process.is_alive():
            return []
        server = psutil.Process(self._process.pid)
        if not self._serves:
            server.suspend()
        return [*server.children(recursive=True), *([] if self._serves else [server])]


class BatchingLitServeServer(LitServeServer):
    """The same with LitServe's dynamic batching."""

    way, api = "LitServe, batching", "Batching"

    def connectors(self) -> dict[str, list[Connector]]:
        found = super().connectors()
        self.rest()
        return found

    def rest(self) -> None:
        self._have_workers(signal.SIGSTOP)

    def wake(self) -> None:
        self._have_workers(signal.SIGCONT)

    def _have_workers(self, number: signal.Signals) -> None:
        self._orders.send(number)
        self._orders.recv()


def _run(orders: Connection, folder: str, model_name: str, api: str, client_count: int, port: int) -> None:
    tempfile.tempdir = os.environ["TMPDIR"] = folder  # for the sockets between its processes
    import litserve

    from servers import litserve_api

    options = {"max_batch_size": max(2, client_count), "batch_timeout": BATCH_TIMEOUT_SECONDS}
    lit_api = getattr(litserve_api, api)(model_name, **(options if api == "Batching" else {}))
    server = litserve.LitServer(lit_api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    threading.Thread(target=_obey, args=(orders, server), daemon=True).start()
    try:
        server.run(
            host=HOST,
            port=port,
            log_level="error",
            generate_client_file=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # if no other process is left to remove it


def _obey(orders: Connection, server: Any) -> None:
    """Send signals to the workers; at the end send SIGINT like Ctrl-C, as LitServe expects."""

    def send(number: signal.Signals) -> None:
        for worker in getattr(server, "inference_workers", []):
            os.kill(worker.pid, number)

    with contextlib.suppress(EOFError, OSError):  # if the other end is closed, or its process has ended
        while True:
            send(orders.recv())
            orders.send(None)
    logging.disable()  # LitServe reports the end of its own processes as errors
    send(signal.SIGCONT)
    os.kill(os.getpid(), signal.SIGINT)
