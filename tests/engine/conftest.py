"""Fixtures that stop engines and close clients after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from plain_engine import PlainEngine
from serving import Seen, first_number

import ringfeed
from ringfeed.testing import ManualPolicy


@pytest.fixture
def make_client(make_ring: Any) -> Iterator[Callable[..., ringfeed.Client]]:
    """Return a function that makes a client of a ring or of its name; the clients are closed at the end."""
    made: list[ringfeed.Client] = []

    def make(ring: ringfeed.Ring | str, **options: Any) -> ringfeed.Client:
        made.append(ringfeed.Client(ring, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def serve(make_ring: Any) -> Iterator[Callable[..., ringfeed.Engine]]:
    """Return a function that starts an engine in this process; it is stopped at the end."""
    started: list[ringfeed.Engine] = []

    def start(
        ring: ringfeed.Ring, model: Any = first_number, *, kind: type[ringfeed.Engine] | None = None, **options: Any
    ) -> ringfeed.Engine:
        if "policy" not in options and "linger" not in options:
            options["linger"] = 0.0
        started.append((kind or ringfeed.Engine)(ring, model, **options))
        return started[-1].start()

    yield start
    for engine in started:
        engine.stop()


@pytest.fixture
def plain_engine(ring: Any) -> Iterator[PlainEngine]:
    """Return an engine without a model, not yet opened."""
    with PlainEngine(ring) as made:
        yield made


@pytest.fixture
def manual(ring: Any, serve: Any, make_client: Any) -> Any:
    """Return an engine that takes batches on command, its policy, its client, and its model."""
    seen, policy = Seen(), ManualPolicy(8)
    engine = serve(ring, seen, policy=policy)
    seen.forget()
    return engine, policy, make_client(ring.name), seen
