"""`Client(max_in_flight=...)`: the limit on the requests of a client that are in flight."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import ringfeed

ONE = np.ones(16, np.float32)


@pytest.fixture
def policy() -> ringfeed.testing.ManualPolicy:
    return ringfeed.testing.ManualPolicy(batch_size=8)


@pytest.fixture
def client(make_ring, policy) -> Iterator[ringfeed.Client]:
    """Return a client that may have one request in flight, of an engine that takes batches on command."""
    ring = make_ring({"x": ((16,), "float32")}, slots=64)
    with (
        ringfeed.Engine(ring, lambda x: 2 * x, policy=policy),
        ringfeed.Client(ring, max_in_flight=1) as made,
    ):
        yield made


def test_submit_waits_while_max_in_flight_requests_are_in_flight(client, policy):
    first = client.submit(ONE)
    answering = threading.Timer(0.1, policy.release, (1,))
    answering.start()
    second = client.submit(ONE)
    assert first.done()
    policy.release(1)
    np.testing.assert_array_equal(second.result(), 2 * ONE)
    answering.join()


def test_apredict_waits_while_max_in_flight_requests_are_in_flight(client, policy):
    async def ask_thrice() -> list[np.ndarray]:
        for _ in range(3):
            policy.release(1)
        return await asyncio.gather(*(client.apredict(ONE) for _ in range(3)))

    np.testing.assert_array_equal(asyncio.run(ask_thrice()), np.stack([2 * ONE] * 3))


def test_submit_raises_if_no_request_is_answered_within_its_timeout(client, policy):
    first = client.submit(ONE)
    with pytest.raises(ringfeed.RingFull, match="max_in_flight"):
        client.submit(ONE, timeout=0.01)
    policy.release(1)
    first.result()
