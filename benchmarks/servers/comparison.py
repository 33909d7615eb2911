"""Runs the servers against each other, fairly on a noisy machine. Knows no server in particular.

All servers and clients start once and stay: whoever is not asked stands idle, or is held where it does not by itself.
In every round (`measuring.rounds`) each way is asked the same number of times, by as many clients. Each client checks
every reply against NumPy, after the clock has stopped.
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
        The ways to ask that there are, in the order of `interface.SERVERS`.
    clients : list of ClientProcess
    server_of : dict
        Way -> the server that is asked so.
    missing : dict
        The ways that are not there, and why.
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
        """Warm everyone up, and return what measures each: `count` requests of each of so many clients.

        A value is the median time of a request ("round_trip"), or the time over all replies ("many_clients").
        """
        names = [*self.names, MODEL_ALONE]
        for name in names:
            self.ask(name, client_count, min(count, max(3, WARM_UP_REQUESTS // client_count)))

        def way(name: str) -> Way:
            return Way(name, role_of(name), lambda: sample_of(figure, self.ask(name, client_count, count)))

        return [way(name) for name in names]

    def ask(self, name: str, client_count: int, count: int) -> list[Stint]:
        """Have each of so many clients send `count` requests, one after the other."""
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
    """Make one round of one way a sample."""
    latencies_us = np.concatenate([stint.latencies_us for stint in stints])
    seconds = max(stint.ended_seconds for stint in stints) - min(stint.started_seconds for stint in stints)
    value = float(np.median(latencies_us)) / 1e6 if figure == "round_trip" else seconds / len(latencies_us)
    return Sample(value, seconds, latencies_us)
