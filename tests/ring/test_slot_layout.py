"""The layout of slots: dtypes, shapes, strides, alignment, and runs across the ring's end."""

import mmap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfeed.record_spec import MAX_FIELDS, MAX_RANK, as_dtype
from support import DTYPES


def address(array):
    return array.__array_interface__["data"][0]


def random_sample(rng, field):
    """Return random bytes as a sample. Tests compare bytes, because some of these values are NaN."""
    raw = rng.integers(0, 2 if field.dtype == bool else 256, field.sample_bytes, np.uint8)
    return raw.view(field.dtype).reshape(field.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (64,), (3, 7, 2)])
def test_every_dtype_and_shape_comes_out_as_it_went_in(make_ring, dtype, shape):
    ring = make_ring({"x": (shape, dtype)})
    rng = np.random.default_rng(0)
    samples = [random_sample(rng, ring.spec["x"]) for _ in range(3)]
    for sample in samples:
        ring.put({"x": sample})
    with ring.take(max_rows=8) as batch:
        assert batch["x"].dtype == as_dtype(dtype)
        assert batch["x"].shape == (3, *shape)
        assert batch["x"].tobytes() == b"".join(sample.tobytes() for sample in samples)


def test_a_record_of_several_fields_keeps_them_apart(make_ring):
    fields = {"image": ((7, 5, 3), "uint8"), "label": ((), "int64"), "mask": ((9,), "bool"), "half": ((3,), "bfloat16")}
    ring = make_ring(fields, slots=5)
    rng = np.random.default_rng(0)
    records = [{name: random_sample(rng, ring.spec[name]) for name in fields} for _ in range(20)]
    for record in records:
        ring.put(record)
    with ring.take(max_rows=20) as batch:
        assert list(batch) == list(fields)
        for name in fields:
            assert batch[name].tobytes() == b"".join(record[name].tobytes() for record in records)


def test_a_record_may_have_as_many_fields_and_axes_as_are_allowed(make_ring):
    fields = {f"field {i}": ((1,) * MAX_RANK, "int16") for i in range(MAX_FIELDS)}
    ring = make_ring(fields, slots=1)
    with ring.claim() as slot:
        for i in range(MAX_FIELDS):
            slot[f"field {i}"][...] = i
    with ring.take(max_rows=1) as batch:
        for i in range(MAX_FIELDS):
            assert batch[f"field {i}"].shape == (1,) * (MAX_RANK + 1)
            assert batch[f"field {i}"].item() == i


def test_a_field_name_may_be_any_text(make_ring):
    ring = make_ring({"größe [m²], \N{SNAKE}": ((2,), "float32")})
    ring.put({"größe [m²], \N{SNAKE}": [1, 2]})
    with ring.take(max_rows=1) as batch:
        assert batch["größe [m²], \N{SNAKE}"].tolist() == [[1, 2]]


def test_the_ring_says_what_it_was_made_of(make_ring):
    fields = {"image": ((7, 5, 3), "uint8"), "label": ((), "int64")}
    ring = make_ring(fields, slots=5)
    assert {name: (field.shape, field.dtype.name) for name, field in ring.spec.items()} == fields


def test_the_slots_are_rounded_up_so_that_every_field_fills_whole_pages(make_ring):
    ring = make_ring({"page": ((mmap.PAGESIZE,), "uint8"), "half": ((mmap.PAGESIZE // 2,), "uint8")}, slots=3)
    assert ring.slots == 4
    ring = make_ring({"small": ((64,), "uint8")}, slots=1)
    assert ring.slots == mmap.PAGESIZE // 64


@pytest.mark.parametrize(("shape", "stride"), [((), 64), ((64,), 64), ((65,), 128), ((299, 299, 3), 268224)])
def test_every_sample_starts_on_64_bytes(make_ring, shape, stride):
    ring = make_ring({"a": ((), "int8"), "x": (shape, "uint8")}, slots=2)
    with ring.claim(rows=2) as slots:
        assert slots["x"].strides[0] == stride
        assert all(address(slots["x"][row : row + 1]) % 64 == 0 for row in range(len(slots)))


def test_a_batch_of_unpadded_samples_is_contiguous(make_ring):
    ring = make_ring({"x": ((16, 4), "float32")})
    ring.put({"x": np.zeros((16, 4), np.float32)})
    ring.put({"x": np.zeros((16, 4), np.float32)})
    with ring.take(max_rows=2) as batch:
        assert batch["x"].flags.c_contiguous
        assert batch["x"].flags.aligned


def test_a_padded_batch_shows_the_same_samples_and_their_padding(make_ring):
    ring = make_ring({"x": ((3, 7), "float32")})
    for i in range(3):
        ring.put({"x": np.full((3, 7), i, np.float32)})
    with ring.take(max_rows=3) as batch:
        dense = batch.padded("x")
        assert dense.shape == (3, 32)
        assert dense.flags.c_contiguous
        assert address(dense) == address(batch["x"])
        assert (dense[:, :21].reshape(3, 3, 7) == batch["x"]).all()


def test_a_run_over_the_rings_end_is_one_contiguous_view_of_every_field(make_ring):
    ring = make_ring({"x": ((512,), "int64"), "y": ((3,), "int32")}, slots=64)
    number = 0
    for _ in range(2 * ring.slots):
        for _ in range(5):
            ring.put({"x": np.full(512, number), "y": [number] * 3})
            number += 1
        with ring.take(max_rows=5) as batch:
            assert batch["x"][:, 0].tolist() == list(range(number - 5, number))
            assert batch["y"].tolist() == [[n] * 3 for n in range(number - 5, number)]
            assert batch["x"].flags.c_contiguous


def test_a_claim_over_the_rings_end_is_one_contiguous_view(make_ring):
    ring = make_ring(slots=8)
    ring.claim(rows=6).publish()
    ring.take(max_rows=6).release()
    with ring.claim(rows=8) as slots:
        assert len(slots) == 8
        slots["x"][...] = np.arange(8 * 512).reshape(8, 512)
    with ring.take(max_rows=8) as batch:
        assert batch["x"].ravel().tolist() == list(range(8 * 512))


def test_both_halves_of_the_mirror_are_the_same_memory(make_ring):
    ring = make_ring(slots=4)
    for i in range(3):
        ring.put({"x": np.full(512, i)})
    ring.take(max_rows=3).release()
    with ring.claim(rows=2) as slots:  # slots 3 and 0
        slots["x"][...] = [[3], [0]]
        start = ring._region_address("x")
        assert address(slots["x"]) == start + 3 * 4096
        assert np.frombuffer((np.ctypeslib.ctypes.c_int64 * 512).from_address(start), np.int64)[0] == 0
        slots["x"][1] = 77
        assert np.frombuffer((np.ctypeslib.ctypes.c_int64 * 512).from_address(start), np.int64)[0] == 77


fields_strategy = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=15),
    st.tuples(st.lists(st.integers(1, 9), max_size=4).map(tuple), st.sampled_from(DTYPES)),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=fields_strategy, slots=st.integers(1, 70), rows=st.integers(1, 150), seed=st.integers(0, 2**32))
def test_any_records_come_out_as_they_went_in(make_ring, fields, slots, rows, seed):
    ring = make_ring(fields, slots=slots)
    assert ring.slots >= slots
    rng = np.random.default_rng(seed)
    waiting = []
    for _ in range(rows):
        record = {name: random_sample(rng, ring.spec[name]) for name in fields}
        ring.put(record, timeout=0)
        waiting.append(record)
        if len(waiting) == ring.slots or rng.random() < 0.2:
            batches = 0
            while waiting:
                with ring.take(max_rows=len(waiting), timeout=0) as batch:
                    came, waiting = waiting[: len(batch)], waiting[len(batch) :]
                    for name in fields:
                        assert batch[name].tobytes() == b"".join(record[name].tobytes() for record in came)
                batches += 1
            assert batches == 1 or (batches == 2 and not ring.mirrored)  # batches stop at its end
    ring.close()
    ring.unlink()
