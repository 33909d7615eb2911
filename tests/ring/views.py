"""Ways to keep a view of a slot, and a lap around the slots that no view holds."""

import numpy as np
import pytest

import ringfeed
from support import record, take_all

MINE = 7

# Each function keeps a view of the rows (a Batch or a Claim) and returns the view.
WAYS_TO_KEEP = {
    "an array": lambda rows: rows["x"],
    "a slice": lambda rows: rows["x"][..., 10:20],
    "a slice of a slice": lambda rows: rows["x"][..., 10:][..., ::2],
    "a reshaped array": lambda rows: rows["x"].reshape(-1, 2),
    "a transposed array": lambda rows: rows["x"].T,
    "an array of another dtype": lambda rows: rows["x"].view(np.uint8),
    "an array of another class": lambda rows: rows["x"].view(np.matrix),
    "the padded array": lambda rows: rows.padded("x"),
    "a memoryview": lambda rows: memoryview(rows["x"]),
    "a slice of a memoryview": lambda rows: memoryview(rows["x"])[:1],
    "an array over a memoryview": lambda rows: np.asarray(memoryview(rows["x"])),
    "an iterator": lambda rows: rows["x"].flat,
    "what the array is based on": lambda rows: rows["x"].base,
    "an array over the array interface": lambda rows: np.asarray(
        type("I", (), {"__array_interface__": rows["x"].__array_interface__, "a": rows["x"]})()
    ),
    "a ctypes object": lambda rows: np.ctypeslib.as_ctypes(rows["x"]),
    "an exporter": lambda rows: rows.dlpack("x"),
    "a padded exporter": lambda rows: rows.dlpack("x", padded=True),
    "a capsule": lambda rows: rows.dlpack("x").__dlpack__(),
    "a versioned capsule": lambda rows: rows.__dlpack__(max_version=(1, 0)),
    "a capsule of an array": lambda rows: rows["x"].__dlpack__(),
    "an array from DLPack": lambda rows: np.from_dlpack(rows),
    "an array from an exporter": lambda rows: np.from_dlpack(rows.dlpack("x")),
}
keeping = pytest.mark.parametrize("keep", WAYS_TO_KEEP.values(), ids=WAYS_TO_KEEP)

# Views of a claim that can still write into the slot after publishing and differ from the claim's own arrays.
DERIVED = [
    "a slice",
    "a slice of a slice",
    "a reshaped array",
    "a transposed array",
    "an array of another dtype",
    "what the array is based on",
    "an array from DLPack",
    "an array from an exporter",
]
deriving = pytest.mark.parametrize("derive", [WAYS_TO_KEEP[name] for name in DERIVED], ids=DERIVED)
keeping_as_it_is = pytest.mark.parametrize(
    "keep",
    [way for name, way in WAYS_TO_KEEP.items() if name not in DERIVED],
    ids=[name for name in WAYS_TO_KEEP if name not in DERIVED],
)


def lap(ring, slots):
    """Fill the free slots, check that there are `slots` of them, and take the records again."""
    count = 0
    while True:
        try:
            ring.put(record(1000 + count), timeout=0)
        except ringfeed.RingFull:
            break
        count += 1
    assert count == slots
    assert take_all(ring) == [1000 + n for n in range(count)]
