"""The inputs that a client may give: rows (never guessed), lists, other byte orders; and which inputs are refused."""

from __future__ import annotations

import asyncio
import collections
import json
import math
import re
import warnings
from types import MappingProxyType

import numpy as np
import pytest
import tensorflow as tf
from serving import rows_of, wait_until_free, x_of

import ringfeed
from support import in_thread, wait_until

FIELDS = {"image": ((2, 3), "float32"), "scale": ((), "float32"), "n": ((), "int64")}


def weigh(given):
    return tf.reduce_sum(given["image"], axis=(1, 2)) * given["scale"] + tf.cast(given["n"], tf.float32)


@pytest.fixture
def client(make_ring, serve, make_client):
    """Return the client of a ring with three fields; its answers contain all of them."""
    ring = make_ring(FIELDS, slots=16)
    serve(ring, weigh)
    client = make_client(ring.name)
    yield client
    wait_until_free(ring, client._session.pool)


@pytest.fixture
def vectors(make_ring, serve, make_client):
    """Return the client of a ring with one field of three floats, whose answers are the sums."""
    ring = make_ring({"x": ((3,), "float32")}, slots=64)
    serve(ring, lambda x: tf.reduce_sum(x, axis=1))
    client = make_client(ring.name)
    yield client
    wait_until_free(ring, client._session.pool)


def all_ways(client, inputs, **options):
    """Ask for rows in every way, check that the answers are the same, and return them."""
    answers = [
        client.predict_rows(inputs, **options),
        client.submit_rows(inputs, **options).result(),
        asyncio.run(client.apredict_rows(inputs, **options)),
    ]
    assert all(np.array_equal(answers[0], other) for other in answers[1:])
    return answers[0]


def refused(client, inputs, message, ways=("predict_rows", "submit_rows", "apredict_rows"), **options):
    def ask(way):
        answer = getattr(client, way)(inputs, **options)
        return asyncio.run(answer) if way.startswith("a") else answer

    for way in ways:
        with pytest.raises(ringfeed.RecordMismatch, match=message) as error:
            ask(way)
        assert repr(client.name) in str(error.value)


# ---- Rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "tuples", "array", "swapped", "arrays in a list", "strided", "field"])
def test_rows_are_taken_in_every_form(vectors, form):
    numbers = np.arange(60, dtype=np.float32).reshape(20, 3)
    inputs = {
        "json": json.loads(json.dumps(numbers.tolist())),
        "tuples": tuple(map(tuple, numbers.astype(int).tolist())),
        "array": numbers,
        "swapped": numbers.astype(">f4"),
        "arrays in a list": list(numbers),
        "strided": np.repeat(numbers, 2, axis=0)[::2],
        "field": collections.UserDict(x=numbers.tolist()),
    }[form]
    assert all_ways(vectors, inputs).tolist() == numbers.sum(axis=1).tolist()


def test_one_row_is_a_row_and_a_sample_is_none(vectors):
    assert all_ways(vectors, [[1, 2, 3]]).tolist() == [6]
    assert vectors.predict([1, 2, 3]) == 6
    refused(vectors, [1, 2, 3], r"\[3\] are no 3 rows of 'x': float32\[3\]")
    refused(vectors, np.ones(3, np.float32), r"float32\[3\] are no 3 rows of 'x': float32\[3\]")
    refused(vectors, 1.0, r"float32\[\] are no rows of 'x'")


def test_rows_of_numbers_are_rows_where_a_sample_is_one_number(make_ring, serve, make_client):
    ring = make_ring({"n": ((), "int64")}, slots=64)
    serve(ring, lambda n: n * 2)
    client = make_client(ring.name)
    assert all_ways(client, [1, 2, 3]).tolist() == [2, 4, 6]
    assert client.predict(5) == 10


def test_rows_of_several_fields_come_by_field_or_by_row(client):
    images = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    columns = {"n": [1, 2, 3, 4], "scale": (0.5, 1, 2.0, 3), "image": images}
    rows = [{"scale": 0.5 if i == 0 else i, "n": i + 1, "image": images[i].tolist()} for i in range(4)]
    expected = (images.sum(axis=(1, 2)) * [0.5, 1, 2, 3] + [1, 2, 3, 4]).tolist()
    assert all_ways(client, columns).tolist() == expected
    assert all_ways(client, MappingProxyType(columns)).tolist() == expected
    assert all_ways(client, rows).tolist() == expected
    assert all_ways(client, list(map(collections.UserDict, rows))).tolist() == expected


def test_more_rows_than_there_are_slots_and_cells(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name)
    assert client.predict_rows(rows_of(range(100)).tolist(), timeout=60).tolist() == list(range(100))
    assert client.predict_rows(rows_of(range(40)), timeout=60, tag=np.uint8(3), priority=np.int64(0)).tolist() == list(
        range(40)
    )


def test_a_list_of_rows_given_to_predict_is_told_of_predict_rows(vectors, client):
    for way in ("predict", "submit", "apredict"):
        refused(vectors, [[1, 2, 3], [4, 5, 6]], "these are 2 rows of them. Ask for rows by predict_rows", ways=[way])
    two = {"image": np.zeros((2, 2, 3)).tolist(), "scale": [1, 2], "n": [3, 4]}
    refused(client, two, "these are 2 rows of them. Ask for rows by predict_rows", ways=["predict"])


def test_arrays_of_rows_given_to_predict_are_rows_still(vectors):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert vectors.predict(rows).tolist() == [3, 12]
    assert vectors.predict(rows.astype(">f4")).tolist() == [3, 12]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "are no|0 rows"),
        (np.zeros((0, 3), np.float32), "0 rows were given; give at least one"),
        ([[1, 2], [3, 4]], r"\[2, 2\] are no 2 rows of 'x': float32\[3\]"),
        ([[1, 2, 3], [4, 5]], "is no float32"),
        ([[[1, 2, 3]]], r"\[1, 1, 3\] are no 1 rows"),
        ([[1, 2, 1e39]], r"float32, where 1e\+39 \(float64\) would become infinite"),
        ([[1, 2, None]], "None is NoneType and no float32"),
        ([[1, 2, "3"]], "'3' is a text and no float32"),
        ("abc", "is a text and no float32"),
        (None, "None is NoneType and no float32"),
        ([None], "None is NoneType and no float32"),
        (np.ones((2, 3)), r"float64\[2, 3\] are no 2 rows of 'x': float32\[3\]\. Convert"),
        (np.ones((2, 3), int), r"int64\[2, 3\] are no 2 rows of 'x': float32\[3\]"),
        (np.ones((2, 3), object), r"object\[2, 3\] are no 2 rows"),
        ([np.ones(3)], "the ring holds float32, the value is float64"),
        (iter([[1, 2, 3]]), "list_iterator and no float32"),
        ({"y": [[1, 2, 3]]}, "the fields y; the ring holds x. Give each of them once: missing x; unknown y"),
        ([{"x": [1, 2, 3]}, {"z": 1}], "row 1 is the fields z; the ring holds x"),
        ([{"x": [1, 2, 3]}, [1, 2, 3]], "row 1 is list; the ring holds x"),
    ],
)
def test_inputs_that_are_no_rows_are_refused_with_the_reason(vectors, rows, message):
    refused(vectors, rows, message, ways=["predict_rows"])


def test_fields_with_different_numbers_of_rows_are_named_with_them(client):
    inputs = {"image": np.zeros((3, 2, 3), np.float32), "scale": [1, 2], "n": [1, 2, 3]}
    refused(client, inputs, "different numbers of rows: image 3, scale 2, n 3")


@pytest.mark.parametrize("ways", [["predict_rows"], ["predict"]])
def test_missing_and_unknown_fields_are_named(client, ways):
    refused(client, {"image": [], "scalee": 1}, "missing scale, n; unknown scalee", ways=ways)
    refused(client, np.zeros((2, 2, 3)), "has the fields image, scale, n: give a dict of them, not ndarray", ways=ways)
    refused(client, {}, "the fields none; the ring holds image, scale, n.*missing image, scale, n", ways=ways)


# ---- One sample --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["predict", "submit", "apredict"])
def test_a_sample_is_taken_in_every_form_with_its_values(vectors, ask):
    def answer(inputs):
        given = getattr(vectors, ask)(inputs)
        return asyncio.run(given) if ask == "apredict" else given.result() if ask == "submit" else given

    for inputs in (
        [1, 2, 3.5],
        (1, 2, 3.5),
        np.array([1, 2, 3.5], ">f4"),
        np.array([1, 2, 3.5], "<f4"),
        [np.float32(1), 2, np.float16(3.5)],
        collections.UserDict(x=[1, 2, 3.5]),
        MappingProxyType({"x": (1, 2, 3.5)}),
        collections.ChainMap({}, {"x": np.array([1, 2, 3.5], ">f4")}),
    ):
        assert answer(inputs) == 6.5


def test_nan_and_infinity_are_numbers(vectors):
    assert math.isnan(vectors.predict([1, math.nan, 2]))
    assert vectors.predict([1, math.inf, 2]) == math.inf


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([1, 2, 1e39], r"the ring holds float32, where 1e\+39 \(float64\) would become infinite"),
        (np.ones(3), r"the ring holds float32, the value is float64\. Convert it with \.astype\('float32'\)"),
        (np.ones(3, np.int64), "the ring holds float32, the value is int64"),
        (np.ones(3, ">f8"), "the ring holds float32, the value is >f8"),
        ([1, 2, 2**24 + 1], "which rounds the integer 16777217"),
        ([1, 2, None], "None is NoneType"),
        ("abc", "'abc' is a text"),
        ([1, [2], 3], "is no float32"),
        ([1, 2], r"samples of shape \(3,\), the value has shape \(2,\)"),
        ([], r"samples of shape \(3,\), the value has shape \(0,\)"),
    ],
)
def test_a_sample_that_does_not_stay_what_it_is_is_refused(vectors, sample, message):
    refused(vectors, sample, message, ways=["predict", "submit", "apredict"])


@pytest.mark.parametrize("value", [1.5, "1", None, 2**63, np.float64(1), np.int32(1), True])
def test_a_number_for_a_field_of_integers(client, value):
    record = {"image": np.zeros((2, 3), np.float32), "scale": 1.0, "n": value}
    if value is True:
        assert client.predict(record) == 1
    else:
        refused(client, record, "field 'n': .*int64", ways=["predict"])


def test_numbers_of_numpy_are_taken_as_options(vectors, make_client):
    narrow = make_client(vectors.name, max_in_flight=np.int64(2), timeout=np.float32(10))
    options = {"priority": np.uint8(0), "tag": np.int16(1), "timeout": np.float64(60)}
    futures = [narrow.submit([i, 0, 0], **options) for i in range(9)]
    assert [future.result() for future in futures] == list(range(9))
    assert narrow.predict([1, 1, 1], timeout=10**12) == 3
    for options in ({"priority": 1.0}, {"priority": "0"}, {"timeout": "1"}, {"tag": 1.5}):
        for ask in (narrow.predict, narrow.submit, lambda x, **o: narrow.predict_rows([x], **o)):
            with pytest.raises(TypeError, match=re.escape(next(iter(options)))):
                ask([1, 1, 1], **options)


def test_a_request_that_is_late_is_a_timeout_error_everywhere(manual):
    _, _, client, _ = manual  # the engine takes no record
    with pytest.raises(TimeoutError, match="no answer within the timeout"):
        client.predict(x_of(1), timeout=0.01)
    with pytest.raises(TimeoutError):
        client.submit(x_of(1), timeout=0.01).result()
    with pytest.raises(TimeoutError):
        client.predict_rows(rows_of([1, 2]), timeout=0.01)
    with pytest.raises(TimeoutError) as error:
        asyncio.run(client.apredict(x_of(1), timeout=0.01))
    assert type(error.value) is ringfeed.DeadlineExceeded


def test_a_client_that_keeps_every_cell_and_waits_without_a_timeout_gets_an_error(
    ring, serve, make_client, monkeypatch
):
    monkeypatch.setattr("ringfeed.stall.STALL_SECONDS", 0.0)
    monkeypatch.setattr("ringfeed.stall.GARBAGE_SECONDS", 0.0)
    serve(ring, reply_cells=1)
    client = make_client(ring.name, copy=False)
    cells = client._session.pool.cells.slots
    kept = [client.predict(x_of(number)) for number in range(cells)]
    with warnings.catch_warnings(record=True) as said, in_thread(client.predict, x_of(7)) as answer:
        warnings.simplefilter("always")
        wait_until(lambda: said)
        kept.clear()
        assert answer.result() == 7
    assert f"all {cells} reply cells have been held: {cells} by" in str(said[0].message)
