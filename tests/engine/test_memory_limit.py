"""How many rows an engine gives its model: fewer after the device ran out of memory, more again later."""

from __future__ import annotations

import numpy as np
import pytest
from serving import Broken, rows_of

from ringfeed.engine import memory_limit
from ringfeed.engine.memory_limit import MemoryLimit
from support import wait_until


def test_the_memory_limit_rises_again_when_there_is_memory_again(make_ring, serve, make_client):
    ring = make_ring(slots=64)
    most = [64]

    def short_of_memory(given):
        if len(given) > most[0]:
            raise MemoryError

    engine, client = serve(ring, Broken(short_of_memory), batch_size=32), make_client(ring)
    most[0] = 1
    assert client.predict(rows_of(range(64))).tolist() == list(range(64))
    assert engine.stats().memory_limit_rows == 1
    most[0] = 64

    def is_back():
        assert client.predict(rows_of(range(64))).tolist() == list(range(64))
        return engine.stats().memory_limit_rows == 32

    wait_until(is_back)
    assert engine.stats().failed == 0


def test_trials_that_fail_come_more_and_more_seldom(monkeypatch):
    monkeypatch.setattr(memory_limit, "_PROBE_SECONDS", 1e9)
    found = MemoryLimit(32)
    found.record_out_of_memory(32)
    trials = []
    for batch in range(1000):
        if found.next_rows > found.rows:
            trials.append(batch)
            found.record_out_of_memory(found.next_rows)
        else:
            found.record_fit(found.rows)
    assert found.rows == 16
    gaps = np.diff(trials)
    assert (gaps[1:] >= gaps[:-1]).all()
    assert len(trials) <= 7


@pytest.mark.parametrize("most", [1, 2, 3, 7, 32])
def test_the_memory_limit_never_exceeds_its_cap(monkeypatch, most):
    monkeypatch.setattr(memory_limit, "_PROBE_BATCHES", 0)
    found = MemoryLimit(32)
    found.cap(most)
    found.record_out_of_memory(most)
    for _ in range(10):
        assert 1 <= found.next_rows <= most
        found.record_fit(found.next_rows)
    assert found.rows == most
