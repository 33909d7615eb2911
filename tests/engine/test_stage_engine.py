"""`ringfeed.StageEngine`: a stage ends with the ring of the next stage, and another engine can take over."""

from __future__ import annotations

import numpy as np
import pytest

import ringfeed
from support import Child, wait_until


def add(value):
    return lambda x: x + value


def test_an_engine_that_takes_over_from_a_pipeline_serves_while_and_after_it_ends(make_ring, serve, make_client):
    ring = make_ring({"x": ((4,), "float32")})
    ones = np.ones(4, np.float32)
    pipeline = ringfeed.Pipeline([add(1), add(2)], ring=ring).start()
    client = make_client(ring)
    assert client.predict(ones).tolist() == [4] * 4
    engine = serve(ring, add(3), same_model=False)
    pipeline.stop()
    for _ in range(3):
        assert client.predict(ones, timeout=60).tolist() == [4] * 4
    with ringfeed.Pipeline([add(2), add(1)], ring=ring, same_model=False):
        engine.stop()
        assert client.predict(ones, timeout=60).tolist() == [4] * 4
    with pytest.raises(ringfeed.EngineDied):
        client.predict(ones, timeout=60)


def test_a_stage_whose_next_ring_closed_says_that_it_serves_no_more(make_ring, serve, make_client):
    first, second = make_ring({"x": ((4,), "float32")}), make_ring({"output": ((4,), "float32")})
    serve(second, add(1), kind=ringfeed.StageEngine, first_ring=first)
    stage = serve(first, add(1), kind=ringfeed.StageEngine, next_ring=second)
    client = make_client(first)
    assert client.predict(np.ones(4, np.float32)).tolist() == [3] * 4
    second.close()
    with pytest.raises(ringfeed.EngineDied):
        client.predict(np.ones(4, np.float32), timeout=60)
    wait_until(lambda: not stage.running)


@pytest.mark.parametrize("how", ["close", "finish"])
def test_a_stage_whose_next_ring_ended_serves_no_more_also_without_requests(make_ring, serve, make_client, how):
    first, second = make_ring({"x": ((4,), "float32")}), make_ring({"output": ((4,), "float32")})
    serve(second, add(1), kind=ringfeed.StageEngine, first_ring=first)
    stage = serve(first, add(1), kind=ringfeed.StageEngine, next_ring=second)
    getattr(second, how)()
    wait_until(lambda: not stage.running)
    with pytest.raises(ringfeed.RingFeedError):
        make_client(first).predict(np.ones(4, np.float32), timeout=60)


def own_a_ring(pipe, name):
    with ringfeed.Ring.create(name, {"output": ((4,), "float32")}, 8):
        pipe.tell("made")
        pipe.hear()


def test_a_stage_whose_next_rings_owner_is_killed_serves_no_more_also_without_requests(make_ring, serve, ring_name):
    first, name = make_ring({"x": ((4,), "float32")}), f"{ring_name}-next"
    owner = Child(own_a_ring, name)
    assert owner.told() == "made"
    with ringfeed.Ring.attach(name) as second, ringfeed.StageEngine(second, add(1), first_ring=first):
        pass  # leaves the pool of the last stage behind
    with ringfeed.Ring.attach(name) as second:
        stage = serve(first, add(1), kind=ringfeed.StageEngine, next_ring=second)
        owner.kill()
        wait_until(lambda: not stage.running)
    ringfeed.clean(f"{ring_name}*")
