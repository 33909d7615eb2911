"""Huge pages, locked memory and NUMA nodes: the machine grants the option, or a warning says why not."""

import gc
import warnings

import pytest

import ringfeed
from support import record, segments, take_all, wait_until

FIELDS = {"x": ((512,), "int64")}


@pytest.mark.parametrize("option", [{"huge_pages": True}, {"lock_memory": True}, {"numa_node": 0}, {"numa_node": 1023}])
def test_a_memory_option_is_granted_or_refused_with_a_reason(make_ring, option):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ring = make_ring(**option)
    ((name, answer),) = ring.memory.items()
    assert name in option
    if answer == "granted":
        assert not caught
    else:
        (warning,) = caught
        assert issubclass(warning.category, ringfeed.MemoryOptionWarning)
        assert str(warning.message) == f"ring {ring.name!r}: {name}: {answer}"
        assert answer.startswith("refused (")
        assert warning.filename.endswith("conftest.py")  # the line that called `create`
    ring.put(record(1))
    assert take_all(ring) == [1]


def test_a_warning_that_is_an_error_leaves_no_ring(ring_name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ringfeed.MemoryOptionWarning, match="no such NUMA node"):
            ringfeed.Ring.create(ring_name, FIELDS, numa_node=1023)
    gc.collect()
    wait_until(lambda: ring_name not in segments())


def test_huge_pages_make_regions_of_2_mib(make_ring):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ring = make_ring({"x": ((2**20,), "uint8")}, slots=3, huge_pages=True)
    assert ring.slots == 4
    assert ring._region_address("x") % 2**21 == 0
