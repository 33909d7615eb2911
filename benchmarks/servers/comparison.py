"""Compares the servers fairly on a noisy machine. Knows no particular server.

All servers and clients start once and live through the whole run. Servers without requests are idle; one that is busy
by itself is held meanwhile. In every round (`measuring.rounds`) the same number of clients sends the same number of
requests by each way. After the clock has stopped, each client compares every reply with NumPy's result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import numpy as np

from measuring.rounds import Role, Sample, Way
from servers.client_process import PICTURES, ClientProcess, Stint
from servers.interface import MODEL_ALONE, RINGFEED, SERVERS, Entry, RestlessServer, Server
from servers.model_alone import ModelAlone

WARM_UP_REQUESTS = 3 * PICTURES

Figure = Literal["round_trip", "many_clients"]


class ServerComparison:
    """Servers with one model, and clients that are connected to all of them.

    Attributes
    ----------
    names : list of str
        The available ways, in the order of `interface.SERVERS`.
    clients : list of ClientProcess
    server_of : dict
        Way -> its server.
    missing : dict
        Way -> why it does not take part.
    """

    def __init__(self, model_name: str, client_count: int, entries: Sequence[Entry] = SERVERS) -> None:
        reasons = {entry: entry.missing() for entry in entries}
        self.missing = {way: reason for entry, reason in reasons.items() if reason for way in entry.ways}
        self.clients: list[ClientProcess] = []
        self.server_of: dict[str, Server] = {}
        with ExitStack() as stack:
            servers: list[Server] = []
            for entry in (entry for entry, reason in reasons.items() if not reason):
                servers.append(entry.load()(model_name, client_count))
                stack.callback(servers[-1].close)
            self._alone = ModelAlone(model_name)
            connectors = {}
            for server in servers:
                found = server.connectors()
                connectors.update(found)
                self.server_of.update(dict.fromkeys(found, server))
            self.names = list(connectors)
            for number in range(client_count):
                own = {way: each[number] for way, each in connectors.items()}
                self.clients.append(ClientProcess(number, model_name, own))
                stack.callback(self.clients[-1].close)
            stack.callback(self._hang_up)
            for client in self.clients:
                client.answer()
            self._stack = stack.pop_all()

    def _hang_up(self) -> None:
        for client in self.clients:
            client.hang_up()

    def close(self) -> None:
        """End all clients and servers."""
        self._stack.close()

    def ways(self, figure: Figure, client_count: int, count: int) -> list[Way]:
        """Warm up all ways, and return them: each measures `count` requests of each of `client_count` clients.

        A value is the median time of a request ("round_trip"), or the time over all replies ("many_clients").
        """
        names = [*self.names, MODEL_ALONE]
        for name in names:
            self.ask(name, client_count, min(count, max(3, WARM_UP_REQUESTS // client_count)))

        def way(name: str) -> Way:
            return Way(name, role_of(name), lambda: sample_of(figure, self.ask(name, client_count, count)))

        return [way(name) for name in names]

    def ask(self, name: str, client_count: int, count: int) -> list[Stint]:
        """Let each of `client_count` clients send `count` requests, one after the other."""
        if name == MODEL_ALONE:
            return [self._alone.call(client_count, count)]  # all their pictures in one batch
        with self._awake(name):
            for client in self.clients[:client_count]:
                client.order(name, count)
            return [client.answer() for client in self.clients[:client_count]]

    @contextmanager
    def _awake(self, name: str) -> Iterator[None]:
        server = self.server_of[name]
        if not isinstance(server, RestlessServer):
            yield
            return
        server.wake()
        try:
            yield
        finally:
            server.rest()


def role_of(name: str) -> Role:
    return "ringfeed" if name == RINGFEED else "limit" if name == MODEL_ALONE else "peer"


def sample_of(figure: Figure, stints: Sequence[Stint]) -> Sample:
    """Make a sample of one round of one way."""
    latencies_us = np.concatenate([stint.latencies_us for stint in stints])
    seconds = max(stint.ended_seconds for stint in stints) - min(stint.started_seconds for stint in stints)
    value = float(np.median(latencies_us)) / 1e6 if figure == "round_trip" else seconds / len(latencies_us)
    return Sample(value, seconds, latencies_us)
