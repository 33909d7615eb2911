"""Made-up results of benchmarks, with those parts of pytest-benchmark's file that the report reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2]

HOP_TITLE = "64-byte records, one producer, one taker"
HOP = {"record_bytes": 64, "producers": 1, "takers": 1}
PLACES = ["/home/somebody/ringfeed/benchmarks", "somebodys-machine"]


def entry(
    group: str, way: str, role: str, values: Sequence[float], figure: str = "hop", axes: Any = None, **more: Any
) -> dict[str, Any]:
    """Return the entry of one way."""
    suite = more.pop("suite", "bench_ring.py")
    said = {
        **{"way": way, "role": role, "figure": figure, "axes": axes or {}, "quantity": "time", "unit": "s"},
        **{"bytes_per_unit": 0, "values": list(values), "latency_us": None, "notes": {}, "others_share": 0.01},
    }
    return {
        "group": group,
        "fullname": f"benchmarks/{suite}::bench_it[{way}]",
        "extra_info": said | more,
        "options": {"timer": PLACES[0]},
    }


def rounds(value: float, count: int = 7, noise: float = 0.01) -> list[float]:
    """Return `count` values around `value`, the same in every run."""
    return [value * (1 + noise * math.sin(7 * number)) for number in range(count)]


def hop(ringfeed: float = 1e-7, peer: float = 2e-6, limit: float = 5e-8) -> list[dict[str, Any]]:
    """Return the entries of one table, given the seconds of RingFeed, of the better of two peers, and of the limit."""
    return [
        entry(HOP_TITLE, "faster-fifo", "peer", rounds(peer), axes=HOP),
        entry(HOP_TITLE, "multiprocessing.Queue", "peer", rounds(9 * peer), axes=HOP),
        entry(HOP_TITLE, "RingFeed put", "ringfeed", rounds(ringfeed), axes=HOP),
        entry(HOP_TITLE, "memory", "limit", rounds(limit), axes=HOP),
    ]


def everything() -> list[dict[str, Any]]:
    """Return entries for every picture and every target, in each form that an entry can have."""
    latency = {"50": 12.0, "99": 40.0, "99.9": 1200.0, "count": 1000}
    found = hop()
    for size in (4096, 150528):
        for producers in (1, 4):
            axes = {"record_bytes": size, "producers": producers, "takers": 1}
            found += [
                entry(f"{size} bytes, {producers} producers", way, role, rounds(1e-6), axes=axes, bytes_per_unit=size)
                for way, role in (("RingFeed put", "ringfeed"), ("faster-fifo", "peer"))
            ]
        found += [
            entry(f"way of {size}", "RingFeed put", "ringfeed", rounds(1e-5), "latency", axes, latency_us=latency)
        ]
    for workers in (1, 2):
        axes = {"workload": "digits", "workers": workers, "holds_gil": "yes"}
        for way, role, value in (
            ("RingFeedPredictor", "ringfeed", 1.0),
            ("tf.data numpy_function, deterministic", "peer", 1.9),
            ("cores / (preprocess + model)", "limit", 0.96),
        ):
            found += [entry(f"{workers} workers", way, role, rounds(value), "predict", axes, suite="bench_predict.py")]
    found += [entry("where", "all", "ringfeed", [3e-4], "stages", {}, notes={"claim": 3.0, "preprocess": 250.0})]
    for n, cost in ((1, 1.0), (4, 4.1), (16, 40.0)):
        axes = {"of": "slots", "n": n}
        found += [entry(f"{n} slots", "create", "ringfeed", rounds(cost), "growth", axes, suite="bench_growth.py")]
        found += [entry(f"{n} slots", "limit", "limit", rounds(cost / 2), "growth", axes, suite="bench_growth.py")]
    fair = {"slowest / mean": 0.4}
    axes = {"of": "producers", "n": 64}
    found += [
        entry("64 producers", "put", "ringfeed", rounds(1.0), "growth", axes, notes=fair, suite="bench_growth.py")
    ]
    for way, role, values in (("dataset", "ringfeed", [0.0, -0.1, 0.2]), ("queue", "peer", [0.0, 0.0, 0.0])):
        axes = {"records": 1_000_000}
        found += [entry("growth", way, role, values, "memory_growth", axes, unit="MB", quantity="growth")]
    found += [entry("busy", "RingFeed put", "ringfeed", rounds(1.0), "other", others_share=0.12)]
    return found


def written(path: Path, entries: list[dict[str, Any]], **about: Any) -> Path:
    """Write a result like pytest-benchmark, with the names of a machine and its folders."""
    no_row = {"group": None, "fullname": "benchmarks/bench_devices.py::bench_two", "extra_info": {"rows_per_second": 5}}
    content = {
        "benchmarks": [*entries, no_row],
        "machine_info": {"date": "2026-01-02T03:04:05+00:00", "machine": {"cores": 2}, "versions": {"numpy": "2.4"}},
        "commit_info": {"id": "0123456789abcdef", "dirty": False, "project": PLACES[1], "branch": PLACES[1]},
        "ringfeed": {"scale": "full", "seconds": 4000, "missing": {HOP_TITLE: {"ray": "ray is not installed"}}} | about,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
