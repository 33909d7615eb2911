"""Which requests become a batch, and when; which requests never reach the model."""

from __future__ import annotations

import asyncio
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving import Seen, rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.engine.batching import Batching
from ringfeed.testing import ManualPolicy
from support import in_thread, record, states, wait_until


def test_a_manual_policy_takes_the_batches_that_are_released(manual):
    _, policy, client, seen = manual
    futures = [client.submit(x_of(number)) for number in range(1, 7)]
    for rows in (2, 1, 3):
        policy.release(rows)
    assert [future.result() for future in futures] == [1, 2, 3, 4, 5, 6]
    assert seen.batches == [[1, 2], [3], [4, 5, 6]]
    with pytest.raises(ValueError, match="rows 9: give an integer from 1 to 8"):
        policy.release(9)


def test_no_batch_is_larger_than_the_batch_size(ring, serve, make_client):
    seen = Seen()
    serve(ring, seen, batch_size=3)
    client = make_client(ring.name)
    assert client.predict(rows_of(range(50))).tolist() == list(range(50))
    assert max(map(len, seen.batches)) == 3


@pytest.mark.parametrize("priorities", [1, 2])
def test_a_batch_waits_for_more_rows_during_the_linger(make_ring, serve, make_client, priorities):
    ring = make_ring(slots=8, priorities=priorities)
    seen = Seen()
    serve(ring, seen, batch_size=4, linger=1e6)
    seen.forget()
    client = make_client(ring.name)
    futures = [client.submit(x_of(number)) for number in range(3)]
    wait_until(lambda: ring.stats()["take_wait_ns"])
    assert seen.batches == []
    futures.append(client.submit(x_of(3)))
    assert [future.result() for future in futures] == [0, 1, 2, 3]
    assert seen.batches == [[0, 1, 2, 3]]


@pytest.mark.parametrize("priorities", [1, 2])
def test_a_batch_does_not_wait_longer_than_the_linger(make_ring, serve, make_client, priorities):
    ring = make_ring(slots=8, priorities=priorities)
    serve(ring, batch_size=8, linger=0.2)
    started = time.monotonic()
    assert make_client(ring.name).predict(x_of(1), timeout=60) == 1
    assert time.monotonic() - started >= 0.2


def test_batches_are_padded_up_to_the_allowed_sizes_and_results_are_those_of_a_direct_call(
    make_ring, serve, make_client
):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4, activation="tanh")])
    ring = make_ring({"x": ((16,), "float32")}, slots=64)
    policy = ManualPolicy(8, allowed_batch_sizes=[2, 4, 8])
    sizes = []

    def shown(x):
        tf.py_function(lambda rows: sizes.append(int(rows)), [tf.shape(x)[0]], [])
        return model(x)

    engine = serve(ring, shown, policy=policy)
    sizes.clear()
    client = make_client(ring.name)
    rows = np.random.default_rng(1).random((24, 16), np.float32)
    expected = model(rows).numpy()
    futures = [client.submit(row) for row in rows]
    counts = [1, 2, 3, 4, 5, 8, 1]
    for count in counts:
        policy.release(count)
    np.testing.assert_allclose([future.result() for future in futures], expected, rtol=1e-5, atol=1e-6)
    assert sizes == [policy.padded_size(count) for count in counts] == [2, 2, 4, 4, 8, 8, 2]
    wait_until(lambda: engine.stats().rows == 24)


def test_a_model_that_mixes_rows_is_not_padded_unless_asked(make_ring, serve):
    ring = make_ring({"x": ((16,), "float32")}, slots=64)

    def model(x):
        return x - tf.reduce_mean(x, axis=0)

    with pytest.raises(
        ValueError, match=r"with allowed_batch_sizes, the slots beside .* mixes rows: .*allow_row_mixing=True"
    ):
        serve(ring, model, allowed_batch_sizes=[4, 8])
    serve(ring, model, allowed_batch_sizes=[4, 8], allow_row_mixing=True)


def test_tags_are_padded_with_their_rows(ring, serve, make_client):
    policy = ManualPolicy(4, allowed_batch_sizes=[4])
    serve(ring, lambda tags: tf.cast(tags, tf.int64), policy=policy, structure=ringfeed.tf.TAGS)
    client = make_client(ring.name)
    futures = [client.submit(x_of(0), tag=tag) for tag in (7, 8, 9)]
    policy.release(3)
    assert [future.result() for future in futures] == [7, 8, 9]


def test_the_default_batch_fits_the_ring_and_the_allowed_sizes(ring, make_ring, serve):
    assert serve(ring).policy.batch_size == 8
    assert serve(make_ring(slots=64)).policy.batch_size == 32
    assert serve(make_ring(slots=64), allowed_batch_sizes=[1, 4]).policy.batch_size == 4


def test_the_largest_preferred_size_that_is_ready_is_taken_at_once(make_ring):
    ring = make_ring(slots=16)
    policy = Batching(8, 0.0, preferred_batch_sizes=[2, 4])
    for number in range(7):
        ring.put(record(number))
    taken = []
    while ring.ready:
        batch = policy.take(ring, 8, lambda: False)
        taken.append(len(batch))
        batch.release()
    assert taken == [4, 2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: give an integer, 1 or more"),
        ({"batch_size": 4, "linger": -1}, "linger -1: give seconds"),
        ({"batch_size": 4, "allowed_batch_sizes": [2]}, "batch_size 4 is more than the largest"),
        ({"batch_size": 4, "allowed_batch_sizes": []}, "allowed_batch_sizes"),
        ({"batch_size": 4, "preferred_batch_sizes": [8]}, "such a batch is never taken"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Batching(**options)


# ---- Priorities and room -----------------------------------------------------------------------------


def test_urgent_requests_are_taken_first(make_ring, serve, make_client):
    ring = make_ring(slots=8, priorities=2)
    seen, policy = Seen(), ManualPolicy(8)
    serve(ring, seen, policy=policy)
    seen.forget()
    client = make_client(ring.name)
    futures = [client.submit(x_of(number), priority=1) for number in (10, 11)]
    futures += [client.submit(x_of(number), priority=0) for number in (1, 2)]
    futures.append(client.submit(rows_of([12, 13]), priority=1))
    for _ in range(2):
        policy.release(1)
    policy.release(4)
    assert [np.asarray(future.result()).tolist() for future in futures] == [10, 11, 1, 2, [12, 13]]
    assert seen.batches == [[1], [2], [10, 11, 12, 13]]
    for priority in (2, -1):
        with pytest.raises(ValueError, match=f"priority {priority}: give an integer from 0 to 1"):
            client.predict(x_of(1), priority=priority)
    wait_until_free(ring, client._session.pool)


def test_a_full_level_does_not_keep_urgent_requests_out(make_ring, serve, make_client):
    ring = make_ring(slots=8, priorities=2)
    policy = ManualPolicy(8)
    serve(ring, policy=policy)
    client = make_client(ring.name)
    slow = [client.submit(x_of(number), priority=1) for number in range(8)]
    with pytest.raises(ringfeed.RingFull):
        client.predict(x_of(8), priority=1, timeout=0)
    urgent = client.submit(x_of(1), timeout=0)
    assert not urgent.done() or isinstance(urgent.exception(), ringfeed.DeadlineExceeded)
    urgent = client.submit(x_of(7))
    policy.release(1)
    policy.release(1)
    assert urgent.result() == 7
    policy.release(7 if ring.levels[1].ready == 7 else 8)
    assert [future.result() for future in slow] == list(range(8))


def test_a_queue_that_rejects_does_so_at_once_in_every_way_of_asking(ring, serve, make_client):
    policy = ManualPolicy(8)
    serve(ring, policy=policy, max_queue_size=3, when_full="reject")
    client = make_client(ring.name)
    futures = [client.submit(x_of(number)) for number in range(3)]
    for ask in (
        lambda: client.predict(x_of(9)),
        lambda: client.submit(x_of(9)),
        lambda: client.predict(rows_of([9, 9])),
        lambda: asyncio.run(client.apredict(x_of(9))),
    ):
        with pytest.raises(ringfeed.RingFull, match="3 requests wait, and max_queue_size is 3"):
            ask()
    policy.release(3)
    assert [future.result() for future in futures] == [0, 1, 2]
    wait_until_free(ring, client._session.pool)


def test_a_queue_that_blocks_waits_for_room_as_long_as_the_timeout(ring, serve, make_client):
    policy = ManualPolicy(8)
    serve(ring, policy=policy, max_queue_size=2)
    client = make_client(ring.name)
    futures = [client.submit(x_of(number)) for number in range(2)]
    with pytest.raises(ringfeed.RingFull, match="2 requests wait"):
        client.predict(x_of(9), timeout=0.01)
    with in_thread(client.predict, x_of(2)) as third:
        policy.release(2)
        policy.release(1)
        assert third.result() == 2
    assert [future.result() for future in futures] == [0, 1]


@pytest.mark.parametrize("when_full", ["block", "reject"])
def test_more_rows_than_may_wait_are_put_little_by_little(ring, serve, make_client, when_full):
    serve(ring, max_queue_size=2, when_full=when_full)
    assert make_client(ring.name).predict(rows_of(range(40))).tolist() == list(range(40))
    wait_until(lambda: states(ring) == {"free": 8})


# ---- Chosen batch sizes ------------------------------------------------------------------------------


def test_auto_measures_chooses_and_remembers(make_ring, serve, make_client, tmp_path):
    runs = []

    def model(x):
        tf.py_function(lambda rows: runs.append(int(rows)), [tf.shape(x)[0]], [])
        return x[:, 0]

    keras.utils.set_random_seed(2)
    described = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)])
    ring = make_ring({"x": ((16,), "float32")}, slots=64)
    engine = serve(ring, described, batch_size="auto", remember=tmp_path)
    assert [each.batch_size for each in engine.measurements] == [1, 2, 4, 8, 16, 32, 64]
    chosen = engine.policy.batch_size
    assert chosen in [1, 2, 4, 8, 16, 32, 64]
    rows = np.random.default_rng(1).random((100, 16), np.float32)
    np.testing.assert_allclose(make_client(ring.name).predict(rows), described(rows), rtol=1e-5, atol=1e-6)
    engine.stop()
    started = time.monotonic()
    again = serve(ring, described, batch_size="auto", remember=tmp_path)
    assert again.policy.batch_size == chosen
    assert [each.batch_size for each in again.measurements] == [each.batch_size for each in engine.measurements]
    assert [each.seconds_per_batch for each in again.measurements] == [
        each.seconds_per_batch for each in engine.measurements
    ], "measured again"
    assert time.monotonic() > started


def test_auto_keeps_a_latency_target_and_to_the_allowed_sizes(ring, serve):
    def model(x):
        def slow(numbers):
            time.sleep(0.001 * len(numbers))
            return numbers

        return tf.ensure_shape(tf.py_function(slow, [x[:, 0]], tf.int64), (None,))

    engine = serve(
        ring, model, batch_size="auto", latency_target=0.0055, allowed_batch_sizes=[2, 4, 8], allow_row_mixing=True
    )
    assert [each.batch_size for each in engine.measurements] == [2, 4, 8]
    assert engine.policy.batch_size in (2, 4)


def test_an_engine_that_rejects_does_so_also_when_every_slot_is_taken(make_ring, serve, make_client):
    ring = make_ring(slots=8)
    policy = ManualPolicy(8)
    serve(ring, policy=policy, when_full="reject")
    client = make_client(ring.name)
    futures = [client.submit(x_of(number)) for number in range(8)]
    with pytest.raises(ringfeed.RingFull):
        client.predict(x_of(9))
    policy.release(8)
    assert [int(future.result()) for future in futures] == list(range(8))
