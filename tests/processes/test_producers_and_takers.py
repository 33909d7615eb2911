"""Many processes at once: no record is lost, duplicated, torn or out of its producer's order."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

import ringfeed
from support import states

# Each field fills a page, so that a ring has exactly the requested slots.
RECORD = {"x": ((512,), "int64"), "who": ((512,), "int64")}


def produce(pipe, name, who, count, way):
    """Put `count` records, each with its producer's number and its own number."""
    ring = ringfeed.Ring.attach(name)
    pipe.tell("ready")
    pipe.hear()
    number = 0
    while number < count:
        if way == "put":
            ring.put({"x": np.full(512, number), "who": np.full(512, who)}, tag=number)
            number += 1
            continue
        rows = None if way == "claim" else min(way, count - number)
        with ring.claim(rows) as slots:
            numbers = np.arange(number, number + len(slots))
            slots["x"][...] = numbers if rows is None else numbers[:, None]
            slots["who"] = who
            slots.tags = numbers
        number += len(slots.tags)
    return number


def take(pipe, name, max_rows, min_rows, linger):
    """Take until the ring is finished; return the numbers of each producer in the order of taking."""
    ring = ringfeed.Ring.attach(name)
    pipe.tell("ready")
    pipe.hear()
    found = defaultdict(list)
    for batch in ring.batches(max_rows, min_rows=min_rows, linger=linger):
        tags = batch.tags.tolist()
        assert (batch["x"] == np.array(tags)[:, None]).all(), "torn, or another record's tag"
        assert (batch["who"] == batch["who"][:, :1]).all(), "torn"
        for who, number in zip(batch["who"][:, 0].tolist(), tags, strict=True):
            found[who].append(number)
    return dict(found)


def run(ring, start, ways, patiences, count):
    """Run producers and takers to the end; return the records that each taker got."""
    producers = [start(produce, ring.name, who, count, way) for who, way in enumerate(ways)]
    takers = [start(take, ring.name, *patience) for patience in patiences]
    for child in producers + takers:
        assert child.told() == "ready"
    for child in producers + takers:
        child.tell("go")
    assert [child.result() for child in producers] == [count] * len(ways)
    ring.finish()
    return [child.result() for child in takers]


def check(found, producers, count):
    """Check that every record arrived once, and at each taker in its producer's order."""
    for who in range(producers):
        of_each_taker = [taken.get(who, []) for taken in found]
        for numbers in of_each_taker:
            assert numbers == sorted(numbers)
        assert sorted(itertools.chain(*of_each_taker)) == list(range(count))


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
def test_one_taker_gets_the_records_of_several_producers_in_the_order_of_each(make_ring, start, slots):
    ring = make_ring(RECORD, slots=slots)
    found = run(ring, start, ["put", "claim", min(3, slots)], [(5, 1, 0)], count=500)
    check(found, producers=3, count=500)
    assert states(ring) == {"free": slots}


@pytest.mark.parametrize("slots", [2, 7, 64])
def test_several_takers_share_the_records_of_several_producers(make_ring, start, slots):
    ring = make_ring(RECORD, slots=slots)
    patiences = [(1, 1, 0), (5, 1, 0.001), (slots, min(4, slots), 0)]
    found = run(ring, start, ["put", "claim", min(5, slots)], patiences, count=500)
    check(found, producers=3, count=500)
    assert states(ring) == {"free": slots}
    stats = ring.stats()
    assert stats["published"] == stats["taken_total"] == stats["released"] == 1500


def test_one_producers_order_holds_for_every_taker_around_slots_that_others_hold(make_ring, start):
    ring = make_ring(RECORD, slots=16)
    for _ in range(16):
        ring.put({"x": np.zeros(512, int), "who": np.full(512, 9)})
    batches = [ring.take(max_rows=1) for _ in range(16)]
    for position in range(16):
        if position not in (0, 1, 5, 9, 10, 14):
            batches[position].release()
    found = run(ring, start, ["put"], [(4, 1, 0), (4, 1, 0)], count=1000)
    check(found, producers=1, count=1000)
    assert states(ring) == {"free": 10, "taken": 6}


def hold_a_claim(pipe, name):
    ring = ringfeed.Ring.attach(name)
    with ring.claim() as slot:
        pipe.tell("claimed")
        pipe.hear()
        slot["x"] = 7
    return True


def hold_a_batch(pipe, name):
    ring = ringfeed.Ring.attach(name)
    with ring.take(max_rows=2) as batch:
        pipe.tell(batch["x"][:, 0].tolist())
        pipe.hear()
        return batch["x"][:, 0].tolist()


def test_slow_producers_and_takers_delay_only_their_own_slots_lap_after_lap(ring, start):
    ring.put({"x": np.full(512, 1)})
    ring.put({"x": np.full(512, 2)})
    slow_taker = start(hold_a_batch, ring.name)
    assert slow_taker.told() == [1, 2]
    slow_producer = start(hold_a_claim, ring.name)
    assert slow_producer.told() == "claimed"
    for lap in range(50):
        for n in range(5):
            ring.put({"x": np.full(512, n)}, tag=100 * lap + n, timeout=0)
        tags = []
        while len(tags) < 5:
            with ring.take(max_rows=5, timeout=0) as batch:
                tags += batch.tags.tolist()
        assert tags == [100 * lap + n for n in range(5)]
    slow_producer.tell("go on")
    slow_taker.tell("go on")
    assert slow_producer.result() is True
    assert slow_taker.result() == [1, 2]
    with ring.take(max_rows=8) as batch:
        assert (batch["x"] == 7).all()
    assert states(ring) == {"free": 8}
