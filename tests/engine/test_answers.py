"""`Client.predict`, `submit` and `apredict`: the values and the form of answers."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import Future

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from serving import first_number, rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.testing import ManualPolicy
from support import in_thread, record, states, wait_until


def test_an_answer_is_that_of_the_model(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name)
    for number in range(20):
        answer = client.predict({"x": x_of(number)}, timeout=10)
        assert (answer.shape, answer.dtype) == ((), np.int64)
        assert answer == number
    wait_until_free(ring, client._session.pool)


def test_a_ring_with_one_field_takes_the_field_alone(ring, serve, make_client):
    serve(ring)
    client = make_client(ring)
    assert client.predict(x_of(3)) == client.predict(x_of(3).tolist()) == client.submit(x_of(3)).result() == 3


def test_many_futures_are_answered_each_with_its_own(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name, max_in_flight=5)
    futures = [client.submit(x_of(number)) for number in range(300)]
    assert [future.result() for future in futures] == list(range(300))
    wait_until_free(ring, client._session.pool)


def test_threads_share_a_client(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name)

    def ask(first):
        ways = [client.predict, lambda x: client.submit(x).result()]
        return [int(ways[number % 2](x_of(number))) for number in range(first, first + 60)]

    with in_thread(ask, 0) as one, in_thread(ask, 1000) as two, in_thread(ask, 2000) as three:
        answers = [each.result() for each in (one, two, three)]
    assert answers == [list(range(first, first + 60)) for first in (0, 1000, 2000)]


def test_an_event_loop_asks_many_at_a_time_and_is_never_blocked(ring, serve, make_client):
    policy = ManualPolicy(8)
    serve(ring, policy=policy)
    client = make_client(ring.name, max_in_flight=20)

    async def ask_all():
        asking = asyncio.gather(*(client.apredict(x_of(number)) for number in range(60)))
        while not asking.done():  # an answer arrives only while the loop runs
            if ring.ready:
                policy.release(1)
            await asyncio.sleep(0.001)
        return asking.result()

    assert asyncio.run(ask_all()) == list(range(60))


def test_rows_come_back_as_rows_also_more_of_them_than_there_are_slots_and_cells(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name)
    for count in (1, 3, 8, 16, 100):
        answer = client.predict({"x": rows_of(range(count))}, timeout=30)
        assert answer.tolist() == list(range(count))
    assert client.submit(rows_of(range(50))).result().tolist() == list(range(50))
    assert asyncio.run(client.apredict(rows_of(range(50)))).tolist() == list(range(50))
    wait_until_free(ring, client._session.pool)


def test_records_of_plain_producers_are_run_and_want_no_answer(ring, serve, make_client):
    engine = serve(ring)
    client = make_client(ring.name)
    for number in range(30):
        ring.put(record(number))
        assert client.predict(x_of(number)) == number
    wait_until(lambda: engine.stats().rows == 60)
    assert engine.stats().phases["total"].count == 30
    wait_until_free(ring, client._session.pool)


# ---- Outputs -----------------------------------------------------------------------------------------

PICTURE = {"image": ((5, 7, 3), "uint8"), "scale": ((), "float32")}


def test_keras_outputs_are_named_as_the_model_names_them_and_equal_a_direct_call(make_ring, serve, make_client):
    keras.utils.set_random_seed(5)
    given = keras.Input((6,))
    hidden = keras.layers.Dense(4)(given)
    model = keras.Model(
        given, [keras.layers.Dense(3, name="scores")(hidden), keras.layers.Dense(1, name="age")(hidden)]
    )
    ring = make_ring({"x": ((6,), "float32")}, slots=16)
    serve(ring, model)
    rows = np.random.default_rng(1).random((40, 6), np.float32)
    answer = make_client(ring.name).predict(rows)
    expected = model(rows)
    assert list(answer) == ["scores", "age"]
    for name, output in zip(answer, expected, strict=True):
        np.testing.assert_allclose(answer[name], output, rtol=1e-5, atol=1e-6)


def test_two_outputs_of_one_layer_are_told_apart(make_ring, serve, make_client):
    given = keras.Input((6,))
    shared = keras.layers.Dense(3, name="shared")
    model = keras.Model(given, [shared(given), shared(given * 2)])
    ring = make_ring({"x": ((6,), "float32")}, slots=16)
    serve(ring, model)
    row = np.arange(6, dtype=np.float32)
    answer = make_client(ring.name).predict(row)
    assert len(answer) == 2
    for mine, theirs in zip(answer.values(), model(row[None]), strict=True):
        np.testing.assert_allclose(mine, theirs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (lambda x: {"b": x[:, 0], "a": x[:, 1] * 2}, {"a": 2, "b": 1}),
        (lambda x: (x[:, 0], x[:, 1] * 3), {"output_0": 1, "output_1": 3}),
        (lambda x: [x[:, 0]], {"output_0": 1}),
        (lambda x: {"in": {"one": x[:, 0]}, "out": (x[:, 0] * 2, x[:, 0] * 3)}, {"in/one": 1, "out/0": 2, "out/1": 3}),
    ],
)
def test_a_nest_of_outputs_becomes_a_dict_by_their_paths(ring, serve, make_client, model, names):
    serve(ring, model)
    client = make_client(ring.name)
    assert client.predict(x_of(7)) == {name: 7 * factor for name, factor in names.items()}
    rows = client.predict(rows_of(range(5)))
    assert {name: array.tolist() for name, array in rows.items()} == {
        name: [number * factor for number in range(5)] for name, factor in names.items()
    }


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint16", "int32", "uint64", "float16", "float64", "complex64", "bfloat16"]
)
def test_outputs_keep_their_dtype(ring, serve, make_client, dtype):
    wanted = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    serve(ring, lambda x: (tf.cast(x[:, :3], dtype), tf.cast(x[:, 0], dtype)))
    answer = make_client(ring.name).predict(rows_of([0, 1, 2]))
    assert answer["output_0"].dtype == answer["output_1"].dtype == wanted
    expected = rows_of([0, 1, 2]).astype(wanted)
    assert (answer["output_0"] == expected[:, :3]).all()
    assert (answer["output_1"] == expected[:, 0]).all()


def test_fields_that_are_padded_in_the_ring_reach_the_model_cut_to_shape(make_ring, serve, make_client):
    ring = make_ring(PICTURE, slots=16)
    serve(ring, lambda given: tf.cast(given["image"], tf.float32) * given["scale"][:, None, None, None])
    images = np.random.default_rng(2).integers(0, 255, (20, 5, 7, 3), np.uint8)
    scales = np.arange(20, dtype=np.float32)
    client = make_client(ring.name)
    expected = images * scales[:, None, None, None]
    assert (client.predict({"image": images, "scale": scales}) == expected).all()
    assert (client.predict({"image": images[4], "scale": scales[4]}) == expected[4]).all()


def test_the_tag_travels_with_the_request_to_the_model(ring, serve, make_client):
    structure = {"x": "x", "tag": ringfeed.tf.TAGS}
    serve(ring, lambda given: tf.cast(given["tag"], tf.int64) + given["x"][:, 0], structure=structure)
    client = make_client(ring.name)
    assert client.predict(x_of(5), tag=100) == 105
    assert client.predict(rows_of([1, 2, 3]), tag=10).tolist() == [11, 12, 13]


def test_nan_is_a_value(make_ring, serve, make_client):
    ring = make_ring({"x": ((16,), "float32")}, slots=64)
    engine = serve(ring, lambda x: tf.math.log(x[:, 0]))
    assert np.isnan(make_client(ring.name).predict(np.full(16, -1, np.float32)))
    assert engine.stats().failed == 0


# ---- Views -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["predict", "submit", "apredict"])
def test_a_view_stays_as_it_is_while_others_are_answered_and_its_cell_is_free_when_it_goes(
    ring, serve, make_client, ask
):
    serve(ring, lambda x: x[:, :8])
    client = make_client(ring.name, copy=False)
    pool = client._session.pool

    def answer_to(number):
        if ask == "apredict":
            return asyncio.run(client.apredict(x_of(number)))
        return client.predict(x_of(number)) if ask == "predict" else client.submit(x_of(number)).result()

    gc.disable()
    try:
        kept = [answer_to(number) for number in range(3)]
        for number in range(50):
            assert client.predict(x_of(number), copy=True)[0] == number
        assert [view.tolist() for view in kept] == [[number] * 8 for number in range(3)]
        assert pool.cells.stats()["free"] == pool.cells.slots - 3
        kept.clear()
        wait_until_free(ring, pool)
    finally:
        gc.enable()


def test_views_outlive_client_and_engine(ring, serve, make_client):
    engine = serve(ring, lambda x: x[:, :8])
    client = make_client(ring.name, copy=False)
    view = client.predict(x_of(9))
    client.close()
    engine.stop()
    assert view.tolist() == [9] * 8


def test_a_client_that_keeps_every_cell_gets_an_error_that_says_so(ring, serve, make_client):
    serve(ring, reply_cells=1)
    client = make_client(ring.name, copy=False)
    cells = client._session.pool.cells.slots
    kept = [client.predict(x_of(number)) for number in range(cells)]
    with pytest.raises(ringfeed.RingFull, match=f"every one of its {cells} reply cells is in use.*reply_cells"):
        client.predict(x_of(0), timeout=0.01)
    kept.pop()
    assert client.predict(x_of(1), timeout=10) == 1


def test_asking_from_a_callback_of_a_future_does_not_stop_the_collector(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name)
    done = threading.Event()
    seen = []

    def again(future):
        seen.append(int(future.result()))
        if len(seen) < 20:
            client.submit(x_of(len(seen))).add_done_callback(again)
        else:
            done.set()

    client.submit(x_of(0)).add_done_callback(again)
    done.wait()
    assert seen == list(range(20))
    assert first_number(rows_of([4]))[0] == 4
    wait_until(lambda: states(ring) == {"free": 8})


def test_in_a_callback_nothing_waits_for_the_thread_that_it_is_in(ring, serve, make_client):
    policy = ManualPolicy(8)
    serve(ring, policy=policy)
    client = make_client(ring.name, max_in_flight=2)
    told: Future = Future()

    def ask_on(_):
        told.set_result([error_of(lambda: client.predict(np.zeros((3, 512), np.int64))), error_of(ask), error_of(ask)])

    def ask():
        client.submit(x_of(1))

    future = client.submit(x_of(1))
    future.add_done_callback(ask_on)
    policy.release(1)
    assert told.result(timeout=30) == [ringfeed.RingFeedError, None, None]
    assert error_of(lambda: client.submit(x_of(1), timeout=0)) is ringfeed.RingFull


def error_of(function):
    try:
        function()
    except ringfeed.RingFeedError as error:
        return type(error)
