"""Host to device: pinned and unpinned ring slots, compared with memory that the driver itself allocated as pinned.

A batch is 64 pictures of 224x224x3 float32, 38.5 MB. `bench_copy` copies it on one stream, COPIES times in a row.
`bench_copy_behind_compute` copies it on one stream while another multiplies matrices for about twice as long. Its
ratio is the time of both divided by the longer one alone: 1.00 means that the copy is completely hidden.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ringfeed import Ring
from ringfeed import page_locking as pinning

pytestmark = pytest.mark.gpu

BATCH = 64
SHAPE = (224, 224, 3)
BATCH_BYTES = BATCH * int(np.prod(SHAPE)) * 4
COPIES = 10
ROUNDS = 20
SOURCES = ["pinned ring", "unpinned ring", "the driver's pinned memory", "pageable memory"]


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    reason = pinning.availability()
    if reason is not None:
        pytest.skip(f"no GPU to measure: {reason}")
    torch: ModuleType = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no GPU; it may be the CPU build")
    return torch


@pytest.fixture
def source(request: Any, torch: ModuleType) -> Iterator[Any]:
    """A batch in host memory of the kind that the parameter names, as a tensor."""
    kind = request.param
    if "ring" not in kind:
        yield torch.rand(BATCH, *SHAPE, pin_memory=kind != "pageable memory")
        return
    with Ring.create(None, {"image": (SHAPE, "float32")}, 2 * BATCH, pin_memory=kind == "pinned ring") as ring:
        if ring.pinned != (kind == "pinned ring"):
            pytest.skip(f"the ring is not pinned: {ring.memory}")
        for _ in range(BATCH):
            with ring.claim() as slot:
                slot["image"][...] = 1
        batch = ring.take(BATCH, min_rows=BATCH)
        tensor = torch.from_dlpack(batch.dlpack("image"))
        assert tensor.is_pinned() == ring.pinned
        yield tensor
        torch.cuda.synchronize()
        del tensor
        batch.release()


@pytest.mark.benchmark(group="a batch of 38.5 MB to the GPU, one stream")
@pytest.mark.parametrize("source", SOURCES, indirect=True)
def bench_copy(benchmark: Any, torch: ModuleType, source: Any) -> None:
    target = torch.empty_like(source, device="cuda")

    def copy() -> None:
        for _ in range(COPIES):
            target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    benchmark.pedantic(copy, rounds=ROUNDS, warmup_rounds=3)
    if benchmark.stats is not None:  # None if the benchmarks run without measuring
        benchmark.extra_info["GB_per_s"] = COPIES * BATCH_BYTES / benchmark.stats.stats.median / 1e9
        print(f"\n{benchmark.extra_info['GB_per_s']:.1f} GB/s")


def seconds(torch: ModuleType, work: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


@pytest.mark.benchmark(group="ten batches to the GPU while it computes")
@pytest.mark.parametrize("source", SOURCES[:3], indirect=True)
def bench_copy_behind_compute(benchmark: Any, torch: ModuleType, source: Any) -> None:
    target = torch.empty_like(source, device="cuda")
    matrix = torch.rand(2048, 2048, device="cuda")
    result = torch.empty_like(matrix)
    streams = torch.cuda.Stream(), torch.cuda.Stream()

    def copy() -> None:
        with torch.cuda.stream(streams[0]):
            for _ in range(COPIES):
                target.copy_(source, non_blocking=True)

    def compute() -> None:
        with torch.cuda.stream(streams[1]):
            for _ in range(products):
                torch.mm(matrix, matrix, out=result)

    def both() -> None:
        compute()
        copy()

    products = 100
    seconds(torch, compute)
    seconds(torch, copy)
    products = max(1, round(100 * 2 * seconds(torch, copy) / seconds(torch, compute)))
    times: dict[str, list[float]] = {"copy": [], "compute": [], "both": []}
    alone = {"copy": copy, "compute": compute, "both": both}

    def one_round() -> None:  # the three in turn, so that machine noise affects all of them
        for name, work in alone.items():
            times[name].append(seconds(torch, work))

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=2)
    middle = {name: median(each[-ROUNDS:]) for name, each in times.items()}
    ratio = middle["both"] / max(middle["copy"], middle["compute"])
    benchmark.extra_info.update(middle, both_over_the_longer=ratio)
    milliseconds = ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in middle.items())
    print(f"\n{milliseconds}: both take {ratio:.3f} times the longer")
