"""What the GPU tests share: a look at whether there is one, and the ring's way with its driver.

Everything here skips with a reason where no GPU is; tests/ring/test_page_locking.py shows what can be shown without.
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
    """Return PyTorch with a GPU, or skip."""
    cuda_driver()
    torch: ModuleType = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch uses no GPU; it may be the CPU build")
    return torch


def way_of(ring: ringfeed.Ring) -> int:
    """Return how a pinned ring is registered: asking once more only counts up."""
    way, _ = _core.pin_ring(ring, pinning.driver(), pinning.PORTABLE)
    _core.unpin_ring(ring)
    return way


def fill(ring: ringfeed.Ring, first: int, count: int) -> None:
    """Publish records that say their number all over."""
    for number in range(first, first + count):
        with ring.claim(timeout=10.0) as slot:
            slot["x"][...] = number


def expect_numbers(on_gpu: Any, first: int) -> None:
    """Compare a tensor that was copied to the GPU with the numbers that `fill` wrote."""
    rows = on_gpu.cpu().numpy().reshape(len(on_gpu), -1)
    assert (rows == np.arange(first, first + len(rows))[:, None]).all()
