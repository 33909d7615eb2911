"""Requests in, replies out: RingFeed's engine beside what people use today. They, and the models, are in `servers/`.

One client and a trivial model: what a round trip costs around it. Sixteen clients, processes that each wait for a
reply before they send the next request: replies per second. Measured is all that a picture of 224x224x3 uint8 costs
from an array in the client's memory to an array of outputs there. Rounds of all ways alternate (`servers/contest.py`);
when they are done each way runs again for pytest-benchmark's own table.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from measuring.other_load import OtherLoad
from servers.contest import Contest, Figures
from servers.interface import MODEL_ALONE, SERVERS, WAYS
from servers.report import p50_ratio, print_other_load, print_round_trips, print_throughput, throughput_ratio

CLIENTS = 16
ROUND_TRIPS, ROUND_TRIP_ROUNDS = 200, 25  # of one client
REQUESTS_EACH, MANY_CLIENTS_ROUNDS = 50, 11  # of many clients


class Arena:
    """A contest, and its figures for one client and for many, measured when they are first asked for."""

    def __init__(self, contest: Contest, model_name: str, *, quick: bool) -> None:
        self.contest, self.model_name, self._quick = contest, model_name, quick
        self._figures: dict[str, dict[str, Figures]] = {}

    def few(self, count: int) -> int:
        """So many where it is measured; a few where it is only run."""
        return min(count, 3) if self._quick else count

    def round_trips(self) -> dict[str, Figures]:
        if "round trips" not in self._figures:
            load = OtherLoad()
            figures = self.contest.compete(1, self.few(ROUND_TRIP_ROUNDS), self.few(ROUND_TRIPS), with_alone=True)
            print_round_trips(f"one client, model '{self.model_name}'", figures, self.contest.missing)
            print_other_load(load)
            self._figures["round trips"] = figures
        return self._figures["round trips"]

    def many_clients(self) -> dict[str, Figures]:
        if "many clients" not in self._figures:
            clients, load = len(self.contest.clients), OtherLoad()
            figures = self.contest.compete(clients, self.few(MANY_CLIENTS_ROUNDS), self.few(REQUESTS_EACH))
            print_throughput(f"{clients} clients, model '{self.model_name}'", figures, self.contest.missing)
            print_other_load(load)
            self._figures["many clients"] = figures
        return self._figures["many clients"]

    def skip_if_missing(self, way: str) -> None:
        if way in self.contest.missing:
            pytest.skip(f"{way}: {self.contest.missing[way]}")
        if way not in [*self.contest.ways, MODEL_ALONE]:
            pytest.skip(f"{way}: only where it is measured")


@pytest.fixture(scope="module", params=["corners", "sums"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    quick, model_name = request.config.getoption("benchmark_disable"), request.param
    if quick and model_name != "corners":
        pytest.skip("the same servers with another model: only where it is measured")
    client_count = 2 if quick else CLIENTS if model_name == "corners" else 1
    entries = [entry for entry in SERVERS if not (quick and entry.optional)]
    with closing(Contest(model_name, client_count, entries)) as contest:
        yield Arena(contest, model_name, quick=quick)


@pytest.mark.parametrize("way", [*WAYS, MODEL_ALONE])
def bench_round_trip(benchmark: Any, arena: Arena, way: str) -> None:
    arena.skip_if_missing(way)
    figures = arena.round_trips()
    count = arena.few(ROUND_TRIPS)
    benchmark.group = f"{count} round trips of one client, 224x224x3 uint8, model '{arena.model_name}'"
    benchmark.pedantic(arena.contest.ask, (way, 1, count), rounds=5)
    benchmark.extra_info |= {
        "p50_us": figures[way].latency_us(50),
        "p99_us": figures[way].latency_us(99),
        "ringfeed_p50_to_this": p50_ratio(figures, way),
    }


@pytest.mark.parametrize("arena", ["corners"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
def bench_many_clients(benchmark: Any, arena: Arena, way: str) -> None:
    arena.skip_if_missing(way)
    figures = arena.many_clients()
    count, clients = arena.few(REQUESTS_EACH), len(arena.contest.clients)
    benchmark.group = f"{clients} clients, {count} requests each, 224x224x3 uint8, model '{arena.model_name}'"
    benchmark.pedantic(arena.contest.ask, (way, clients, count), rounds=3)
    benchmark.extra_info |= {
        "replies_per_second": statistics.median(figures[way].replies_per_second),
        "p50_us": figures[way].latency_us(50),
        "p99_us": figures[way].latency_us(99),
        "ringfeed_replies_to_this": throughput_ratio(figures, way),
    }
