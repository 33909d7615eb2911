"""`engine.tuning` and `engine.tuning_cache`: the best batch size is measured once."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from ringfeed.engine.tuning import Measurement, Measurements, choose, measure, sizes_up_to
from ringfeed.engine.tuning_cache import cache_folder, fingerprint, key_of, recall, remember
from ringfeed.tf.models.runner import ModelRunner


def measured(**rows_per_second):
    """Return measurements by size: ``measured(_1=100)``."""
    sizes = {int(name[1:]): rate for name, rate in rows_per_second.items()}
    return [Measurement(size, size / rate, rate) for size, rate in sizes.items()]


class Model:
    """A model with a fake clock."""

    def __init__(self, seconds_of, memory=10**9):
        self.now, self.calls, self.seconds_of, self.memory = 0.0, [], seconds_of, memory

    def __call__(self, size):
        self.calls.append(size)
        if size > self.memory:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        self.now += self.seconds_of(size)

    def measure(self, sizes, **options):
        return measure(self, sizes, clock=lambda: self.now, **options)


# ---- Choosing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "size"),
    [
        ({"_1": 100}, 1),
        ({"_1": 100, "_2": 190, "_4": 360, "_8": 400}, 8),
        ({"_1": 100, "_2": 380, "_4": 399, "_8": 400}, 2),  # exactly 95 %
        ({"_1": 100, "_2": 379.9, "_4": 399, "_8": 400}, 4),
        ({"_8": 400, "_4": 500, "_2": 200}, 4),  # larger batches may be slower
    ],
)
def test_the_smallest_size_within_five_percent_of_the_best_throughput_is_chosen(rates, size):
    assert choose(measured(**rates)) == size


@pytest.mark.parametrize(("target", "size"), [(0.010, 1), (0.0105, 2), (0.02, 4), (1.0, 8)])
def test_with_a_latency_target_the_largest_size_that_keeps_it_is_chosen(target, size):
    times = [(1, 0.010), (2, 0.0105), (4, 0.02), (8, 0.05)]
    assert choose([Measurement(rows, each, rows / each) for rows, each in times], latency_target=target) == size


def test_a_target_that_no_size_keeps_is_a_warning_with_the_figures():
    with pytest.warns(RuntimeWarning, match=r"latency_target 2 ms: no batch size keeps it.*2, takes 20 ms"):
        assert choose(measured(_4=100, _2=100), latency_target=0.002) == 2


def test_measurements_without_a_choice_are_refused():
    with pytest.raises(ValueError, match="no measurements"):
        choose([])
    for target in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="seconds above 0"):
            choose(measured(_1=1), latency_target=target)


# ---- Measuring ---------------------------------------------------------------------------------------


def test_sizes_are_powers_of_two_and_the_largest():
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(8) == [1, 2, 4, 8]
    assert sizes_up_to(24) == [1, 2, 4, 8, 16, 24]
    for nothing in (0, -3):
        with pytest.raises(ValueError, match=r"largest batch .*: give an integer, 1 or more"):
            sizes_up_to(nothing)


def test_each_size_is_warmed_up_and_its_median_taken():
    slow = iter([9, 9, 1, 5, 1, 9, 9, 2, 2, 8])
    model = Model(lambda size: next(slow))
    assert list(model.measure([1, 4], warmup=2, rounds=3, budget_seconds=1e9)) == [
        Measurement(1, 1, 1),
        Measurement(4, 2, 2),
    ]
    assert model.calls == [1] * 5 + [4] * 5


def test_rounds_go_on_for_the_time_given_and_are_three_at_least():
    model = Model(lambda size: 0.5 if size == 1 else 4.0)
    model.measure([1, 2], warmup=0, seconds=5.0)
    assert model.calls == [1] * 10 + [2] * 3


def test_a_size_that_does_not_fit_into_memory_ends_the_measurement():
    model = Model(lambda size: 1.0, memory=10)
    found = model.measure(64, warmup=1, rounds=1, budget_seconds=1e9)
    assert [each.batch_size for each in found] == [1, 2, 4, 8]
    assert (found.out_of_memory_at, found.untried) == (16, [32, 64])
    assert model.calls[-1] == 16
    assert "16 rows: out of memory" in str(found)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        Model(lambda size: 1.0, memory=0).measure(64)


def test_no_size_is_begun_after_the_budget_but_one_is_always_measured():
    model = Model(lambda size: float(size))
    found = model.measure(64, warmup=0, rounds=1, budget_seconds=10.0)
    assert [each.batch_size for each in found] == [1, 2, 4, 8]
    assert found.untried == [16, 32, 64]
    assert found.out_of_memory_at is None
    assert len(Model(lambda size: 99.0).measure(64, budget_seconds=0)) == 1


@pytest.mark.parametrize(
    "wrong", [{"sizes": []}, {"sizes": [0, 1]}, {"sizes": 4, "rounds": 0}, {"sizes": 4, "warmup": -1}]
)
def test_numbers_out_of_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match="give"):
        Model(lambda size: 1.0).measure(**wrong)


def test_a_real_model_is_measured_with_a_real_clock():
    runner = ModelRunner(keras.Sequential([keras.Input((7,)), keras.layers.Dense(4)]))
    found = measure(lambda size: runner(np.zeros((size, 7), np.float32)), 6, rounds=2)
    assert [each.batch_size for each in found] == [1, 2, 4, 6]
    assert choose(found) in (1, 2, 4, 6)


# ---- The cache -----------------------------------------------------------------------------------------

SAMPLE = np.zeros((3, 7), np.float32)
FOUND = Measurements(measured(_1=3, _2=5.5), out_of_memory_at=4, untried=[8])


def model_of(width=4, name="model", seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((7,), name="x"), keras.layers.Dense(width, name="dense")], name=name)


def test_measurements_are_cached_in_a_file(tmp_path):
    key = key_of(model_of(), SAMPLE, "CPU:0")
    assert recall(key, tmp_path) is None
    remember(key, FOUND, tmp_path)
    remember("another", Measurements(measured(_1=7)), tmp_path)
    found = recall(key, tmp_path)
    assert list(found) == list(FOUND)
    assert (found.out_of_memory_at, found.untried) == (4, [8])
    assert list(recall("another", tmp_path)) == measured(_1=7)
    remember(key, Measurements(measured(_1=8)), tmp_path)
    assert list(recall(key, tmp_path)) == measured(_1=8)


def test_the_key_is_that_of_a_model_whose_values_may_change_and_of_nothing_else():
    def key(model, inputs=SAMPLE, device="CPU:0", **options):
        return key_of(model, inputs, device, **options)

    same = key(model_of())
    assert same == key(model_of(seed=2)) == key(model_of(), inputs=SAMPLE[:1]) == key(model_of(), device="CPU:1")
    others = [
        key(model_of(width=5)),
        key(model_of(name="other")),
        key(model_of(), inputs=SAMPLE.astype("float16")),
        key(model_of(), inputs=np.zeros((3, 8), np.float32)),
        key(model_of(), device="GPU:0"),
        key(model_of(), jit_compile=True),
        key(lambda x: x * 2),
        key(lambda x: x * 3),
    ]
    assert len({same, *others}) == len(others) + 1
    assert tf.__version__ in same


@pytest.mark.slow
def test_a_fingerprint_is_the_same_in_the_next_process(start):
    def other(pipe):
        import keras

        x = keras.Input((7,), name="x")
        y = keras.layers.Lambda(lambda t: t * 2, name="twice")(keras.layers.Dense(3, activation=other, name="d")(x))
        return fingerprint(keras.Model(x, y, name="model")), fingerprint(lambda x: (x, [1.0]))

    assert start(other).result() == other(None)


def test_a_file_that_changes_is_another_model(tmp_path):
    path = tmp_path / "model.keras"
    model_of().save(path)
    first = fingerprint(path)
    assert fingerprint(str(path)) == first
    model_of(width=9).save(path)
    assert fingerprint(path) != first
    model_of().export(str(tmp_path / "folder"), verbose=False)
    assert fingerprint(tmp_path / "folder").startswith("folder-")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1}',
        b'{"version": 1, "entries": {"k": {"measured": [[1, 0]]}}}',
        b"\xff\xfe",
        b"null",
    ],
)
def test_a_damaged_file_is_ignored_with_a_warning_and_written_anew(tmp_path, damage):
    remember("k", FOUND, tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(damage)
    with pytest.warns(RuntimeWarning, match=r"batch-sizes.json: damaged"):
        assert recall("k", tmp_path) is None
    with pytest.warns(RuntimeWarning, match="damaged"):
        remember("k", FOUND, tmp_path)
    assert list(recall("k", tmp_path)) == list(FOUND)


def test_a_file_of_another_version_is_passed_over(tmp_path):
    (tmp_path / "batch-sizes.json").write_text(json.dumps({"version": 99, "entries": {"k": 1}}))
    with warnings.catch_warnings(action="error"):
        assert recall("k", tmp_path) is None


def test_a_folder_that_can_not_be_written_to_costs_a_warning_only(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match=r"cannot be kept.*XDG_CACHE_HOME"):
        remember("k", FOUND, tmp_path / "file")


def test_the_folder_is_that_of_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember("k", FOUND)
    assert list(recall("k")) == list(FOUND)
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "ringfeed"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard requires a relative path to be ignored
    assert cache_folder() == Path.home() / ".cache" / "ringfeed"


@pytest.mark.slow
def test_two_processes_that_write_at_once_lose_nothing_and_see_whole_files(start, tmp_path):
    def write(number):
        with warnings.catch_warnings(action="error"):
            for each in range(50):
                remember(f"{number}-{each}", FOUND, tmp_path)
                assert recall("0-0", tmp_path) is not None

    def other(pipe):
        pipe.tell("ready")
        pipe.hear()
        write(1)

    child = start(other)
    assert child.told() == "ready"
    remember("0-0", FOUND, tmp_path)
    child.tell()
    write(0)
    child.result()
    assert all(recall(f"{number}-{each}", tmp_path) for number in range(2) for each in range(50))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".lock"}
