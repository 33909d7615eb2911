"""`ringfeed.client.reply_pool`: the reply pool of a ring, by name, and requests without any model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ringfeed
from ringfeed import _core, cli
from ringfeed.client.reply_pool import PoolSettings, ReplyPool
from support import segment_path, segments

OUTPUTS = {"y": ((2,), "float32")}
SETTINGS = PoolSettings(single_output=True)


def make(ring: ringfeed.Ring, settings: PoolSettings = SETTINGS, outputs: Any = None) -> ReplyPool:
    return ReplyPool.make(ring, outputs or OUTPUTS, 16, 8, settings)


def replies_name(ring: ringfeed.Ring) -> str:
    return f"{ring.name}.replies"


def test_the_first_engine_makes_the_pool_and_the_next_one_opens_it(ring):
    first, second = make(ring), make(ring)
    assert first.cells.descriptor != second.cells.descriptor
    assert second.outputs == first.outputs
    assert ReplyPool.join(ring).settings == SETTINGS
    assert segments().count(replies_name(ring)) == 1


def test_settings_travel_with_the_pool(ring):
    settings = PoolSettings(single_output=False, max_queue_size=70_000, rejects=True)
    make(ring, settings)
    assert ReplyPool.join(ring).settings == settings


def test_a_pool_is_unlinked_with_its_ring(make_ring):
    ring = make_ring()
    make(ring)
    ring.unlink()
    assert not segment_path(replies_name(ring)).exists()


def test_a_pool_of_other_outputs_is_refused_while_an_engine_lives_and_replaced_after(ring):
    pool = make(ring)
    pool.serve(ring)
    with pytest.raises(ringfeed.LayoutMismatch, match=r"a living engine answers with .*'y'.*Stop that engine first"):
        make(ring, outputs={"z": ((3,), "int64")})
    pool.serve(None)
    assert list(make(ring, outputs={"z": ((3,), "int64")}).outputs) == ["z"]
    assert not pool.is_current()


def test_the_pool_of_an_earlier_ring_of_the_same_name_is_replaced(make_ring):
    ring = make_ring()
    old = make(ring)
    segment_path(ring.name).unlink()  # as if the ring's owner was killed and the ring created again
    ring.close()
    with ringfeed.Ring.create(ring.name, {"x": ((512,), "int64")}) as anew:
        assert ReplyPool.join(anew) is None
        assert make(anew).cells.descriptor != old.cells.descriptor
        assert ReplyPool.join(anew) is not None


def test_a_ring_without_a_name_cannot_be_served(ring):
    ring.unlink()
    with pytest.raises(ringfeed.RingNotFound, match="has lost its name"):
        make(ring)


def test_a_pool_cannot_be_attached_as_a_ring(ring):
    make(ring)
    with pytest.raises(ringfeed.LayoutMismatch, match="a pool of replies"):
        ringfeed.Ring.attach(replies_name(ring))
    assert ReplyPool.join(ring) is not None


def test_pools_are_listed_as_pools_and_not_cleaned_while_their_ring_lives(ring, start, capsys):
    def make_and_end(pipe: Any, name: str) -> None:
        with ringfeed.Ring.attach(name) as ring:
            make(ring)

    start(make_and_end, ring.name).result()
    assert cli.main(["list", f"{ring.name}*"]) == 0
    assert f"{replies_name(ring)}: replies to requests" in capsys.readouterr().out
    assert [info.name for info in ringfeed.clean(f"{ring.name}*")] == []
    assert ReplyPool.join(ring) is not None
    ring.close()  # kills the owner: no process owns the two segments any more
    cleaned = {info.name for info in ringfeed.clean(f"{ring.name}*")}
    assert cleaned == {ring.name, replies_name(ring)}


def ask(pool: ReplyPool, ring: ringfeed.Ring, number: int) -> _core.Reply:
    return pool.ask(ring, {"x": np.full(512, number)}, number, 2**63 - 1, 1.0, False, True)


def test_a_request_is_answered_by_hand(ring):
    client, engine = make(ring), make(ring)
    reply = ask(client, ring, 5)
    assert not reply.done()
    (requests,) = engine.hold(ring.take(8))
    assert reply.started()
    assert requests.answer([np.float32([[1, 2]])], 0, 1) == 1
    assert reply.wait(2**63 - 1, True)
    np.testing.assert_array_equal(reply.outputs(True, False), [1, 2])


def test_an_answer_that_does_not_fit_is_refused_and_can_be_given_again(ring):
    client, engine = make(ring), make(ring)
    reply = ask(client, ring, 5)
    (requests,) = engine.hold(ring.take(8))
    for wrong in ([np.float32([1, 2])], [np.float64([[1, 2]])], [np.float32([[1, 2, 3]])], []):
        with pytest.raises(ringfeed.RecordMismatch):
            requests.answer(wrong, 0, 1)
    with pytest.raises(IndexError):
        requests.answer([np.float32([[1, 2]])], 0, 2)
    requests.answer([np.float32([[1, 2]])], 0, 1)
    assert reply.done()


def test_withdrawn_requests_are_cut_out_of_a_batch(ring):
    client, engine = make(ring), make(ring)
    replies = [ask(client, ring, number) for number in range(6)]
    for number in (0, 3):
        replies[number].withdraw()
    runs = engine.hold(ring.take(8))
    assert [run.batch.tags.tolist() for run in runs] == [[1, 2], [4, 5]]
    assert engine.withdrawn == 2
    assert ring.stats()["taken"] == 4  # the two other slots are free again


def test_requests_that_are_dropped_unanswered_are_asked_again(ring):
    client, engine = make(ring), make(ring)
    reply = ask(client, ring, 1)
    requests = engine.hold(ring.take(8))
    assert reply.started()
    del requests
    assert not reply.started()
    engine.hold(ring.take(8, timeout=1))[0].answer([np.float32([[1, 2]])], 0, 1)
    assert reply.done()


def test_a_view_of_an_answer_keeps_its_cell(ring):
    client, engine = make(ring), make(ring)
    reply = ask(client, ring, 1)
    engine.hold(ring.take(8))[0].answer([np.float32([[1, 2]])], 0, 1)
    view = reply.outputs(False, False)
    reply.withdraw()
    assert client.cells.stats()["ready"] == 1
    np.testing.assert_array_equal(view, [1, 2])
    del view
    assert client.cells.stats()["free"] == client.cells.slots
