"""Runs the servers against each other, fairly on a noisy machine. Knows no server in particular.

All servers and clients start once and stay: whoever is not asked stands idle. In every round each way is asked the same
number of times, in an order that rotates; ratios are medians over the rounds, of figures of the same round. Each client
checks every reply against NumPy, after the clock has stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from servers.client_process import PICTURES, ClientProcess, Requests, Stint
from servers.interface import MODEL_ALONE, SERVERS, Entry, Server
from servers.model import ModelAlone

WARM_UP_REQUESTS = 3 * PICTURES


@dataclass
class Figures:
    """Of one way: one figure per round, and the latencies of all requests."""

    p50_us: list[float] = field(default_factory=list)
    replies_per_second: list[float] = field(default_factory=list)
    latencies_us: list[float] = field(default_factory=list)

    def add(self, stints: Sequence[Stint]) -> None:
        latencies = np.concatenate([stint.latencies_us for stint in stints])
        seconds = max(stint.ended_seconds for stint in stints) - min(stint.started_seconds for stint in stints)
        self.p50_us.append(float(np.median(latencies)))
        self.replies_per_second.append(len(latencies) / seconds)
        self.latencies_us.extend(latencies)

    def latency_us(self, percent: float) -> float:
        return float(np.percentile(self.latencies_us, percent))


class Contest:
    """Servers with one model, and clients that are connected to all of them.

    Attributes
    ----------
    ways : list of str
        The ways to ask that there are, in the order of `interface.SERVERS`.
    clients : list of ClientProcess
    missing : dict
        The ways that are not there, and why.
    """

    def __init__(self, model_name: str, client_count: int, entries: Sequence[Entry] = SERVERS) -> None:
        reasons = {entry: entry.missing() for entry in entries}
        self.missing = {way: reason for entry, reason in reasons.items() if reason for way in entry.ways}
        self.clients: list[ClientProcess] = []
        with ExitStack() as stack:
            servers: list[Server] = []
            for entry in (entry for entry, reason in reasons.items() if not reason):
                servers.append(entry.load()(model_name, client_count))
                stack.callback(servers[-1].close)
            self._alone, self._own_requests = ModelAlone(model_name), Requests(0, model_name)
            connectors = {way: each for server in servers for way, each in server.connectors().items()}
            self.ways = list(connectors)
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

    def ask(self, way: str, client_count: int, count: int) -> list[Stint]:
        """Have each of so many clients send `count` requests, one after the other."""
        if way == MODEL_ALONE:
            return [self._own_requests.send(way, self._alone, count)]
        for client in self.clients[:client_count]:
            client.order(way, count)
        return [client.answer() for client in self.clients[:client_count]]

    def compete(self, client_count: int, rounds: int, count: int, *, with_alone: bool = False) -> dict[str, Figures]:
        """Warm up, then ask in rounds."""
        ways = [*self.ways, MODEL_ALONE] if with_alone else self.ways
        figures = {way: Figures() for way in ways}
        for way in ways:
            self.ask(way, client_count, min(count, WARM_UP_REQUESTS))
        for number in range(rounds):
            first = number % len(ways)
            for way in ways[first:] + ways[:first]:
                figures[way].add(self.ask(way, client_count, count))
        return figures
