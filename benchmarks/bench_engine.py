"""Requests and replies: RingFeed's engine compared with other servers (`servers/`, with the models).

With one client and a trivial model: the cost of a round trip around the model. With sixteen client processes, each of
which waits for a reply before its next request: replies per second. The time covers a picture of 224x224x3 uint8 from
an array in the client's memory to an array of outputs there. For RingFeed the benchmark also measures the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from measuring.rounds import Sample, Work
from servers.comparison import Figure, ServerComparison
from servers.interface import MODEL_ALONE, RINGFEED, SERVERS, WAYS
from servers.ringfeed_engine import RingFeedEngine, medians_us

CLIENTS = 16
PICTURE = "224x224x3 uint8"


class EngineTables:
    """The tables of one comparison, each measured at its first use."""

    def __init__(self, comparison: ServerComparison, model_name: str, scale: Any, say: Callable[[str], None]) -> None:
        self._comparison, self._model_name, self._scale, self._say = comparison, model_name, scale, say
        self._work: dict[str, Work] = {}
        self._stages_us: dict[str, dict[str, float]] = {}

    def round_trips(self) -> Work:
        requests, rounds = self._scale.of((3, 3), (60, 5), (150, 15))
        return self._once("round_trip", "round trip of one client", 1, requests, rounds)

    def many_clients(self) -> Work:
        requests, rounds = self._scale.of((3, 3), (15, 3), (50, 9))
        clients = len(self._comparison.clients)
        return self._once("many_clients", f"time per reply to {clients} clients", clients, requests, rounds)

    def stages(self) -> Work:
        """The same rounds as clients see them: a value is the median time of a request; RingFeed's notes add stages."""
        if "stages" not in self._work:
            replies, clients = self.many_clients(), len(self._comparison.clients)
            work = self._new_work("stages", f"stages of a request (notes in us), {clients} clients", clients)
            work.missing, work.others_share = replies.missing, replies.others_share
            for way, samples in replies.samples.items():
                for sample in samples:
                    assert sample.latencies_us is not None
                    median = float(np.median(sample.latencies_us)) / 1e6
                    work.add(way, replies.roles[way], Sample(median, sample.seconds, sample.latencies_us))
            work.notes[RINGFEED] = self._stages_us["many_clients"]
            self._work["stages"] = work
        return self._work["stages"]

    @property
    def _engine(self) -> RingFeedEngine:
        engine = self._comparison.server_of[RINGFEED]
        assert isinstance(engine, RingFeedEngine)
        return engine

    def _once(self, figure: Figure, what: str, clients: int, requests: int, rounds: int) -> Work:
        if figure not in self._work:
            work = self._new_work(figure, what, clients)
            work.missing = dict(self._comparison.missing)
            ways = self._comparison.ways(figure, clients, requests)
            before = self._engine.stages()
            self._work[figure] = work.measure(ways, rounds, warm_up=0, say=self._say)
            self._stages_us[figure] = medians_us(before, self._engine.stages())
        return self._work[figure]

    def _new_work(self, figure: str, what: str, clients: int) -> Work:
        title = f"{what}, {PICTURE}, model '{self._model_name}'"
        return Work(title, figure, {"model": self._model_name, "clients": clients}, quantity="time")


@pytest.fixture(scope="module", params=["corners", "sums"])
def arena(request: pytest.FixtureRequest, scale: Any, say: Callable[[str], None]) -> Iterator[EngineTables]:
    model_name = request.param
    if model_name != "corners" and scale.name != "full":
        pytest.skip("the same servers with another model: only with --full")
    smoke = scale.name == "smoke"
    client_count = 2 if smoke else CLIENTS if model_name == "corners" else 1
    entries = [entry for entry in SERVERS if not (smoke and entry.optional)]
    with closing(ServerComparison(model_name, client_count, entries)) as comparison:
        yield EngineTables(comparison, model_name, scale, say)


@pytest.mark.parametrize("way", [*WAYS, MODEL_ALONE])
def bench_round_trip(tell: Callable[[Work, str], None], arena: EngineTables, way: str) -> None:
    tell(arena.round_trips(), way)


@pytest.mark.parametrize("arena", ["corners"], indirect=True)
@pytest.mark.parametrize("way", [*WAYS, MODEL_ALONE])
def bench_many_clients(tell: Callable[[Work, str], None], arena: EngineTables, way: str) -> None:
    tell(arena.many_clients(), way)


@pytest.mark.parametrize("arena", ["corners"], indirect=True)
@pytest.mark.parametrize("way", [*WAYS, MODEL_ALONE])
def bench_stages(tell: Callable[[Work, str], None], arena: EngineTables, way: str) -> None:
    tell(arena.stages(), way)
