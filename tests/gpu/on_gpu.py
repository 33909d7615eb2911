"""Helpers of the GPU tests: they find a GPU, or skip the test with a reason; and they inspect pinned rings.

tests/ring/test_page_locking.py tests pinning without a GPU.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ringfeed
from ringfeed import _core
from ringfeed import page_locking as pinning

WAYS = {
    pinning.WHOLE: "both mappings of a region at once",
    pinning.HALVES: "each mapping by itself",
    pinning.FIRST_HALF: "the first mapping alone: runs end at the ring's end",
}


def cuda_driver() -> Any:
    """Return cuda-bindings' driver, or skip."""
    reason = pinning.availability()
    if reason is not None:
        pytest.skip(f"no GPU to test with: {reason}")
    from cuda.bindings import driver

    return driver


def torch_on_gpu() -> ModuleType:
    """Return PyTorch if it has a GPU; else skip."""
    cuda_driver()
    torch: ModuleType = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no GPU; it may be the CPU build")
    return torch


def way_of(ring: ringfeed.Ring) -> int:
    """Return how a pinned ring is registered. Calling `pin` again only increments its counter."""
    way, _ = _core.pin_ring(ring, pinning.driver(), pinning.PORTABLE)
    _core.unpin_ring(ring)
    return way


def fill(ring: ringfeed.Ring, first: int, count: int) -> None:
    """Publish records whose every element is their number."""
    for number in range(first, first + count):
        with ring.claim(timeout=10.0) as slot:
            slot["x"][...] = number


def expect_numbers(on_gpu: Any, first: int) -> None:
    """Check that a tensor on the GPU has the numbers that `fill` wrote."""
    rows = on_gpu.cpu().numpy().reshape(len(on_gpu), -1)
    assert (rows == np.arange(first, first + len(rows))[:, None]).all()
