"""The tables of a contest, and its targets. Knows no server but by name."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence

from measuring.other_load import OtherLoad
from servers.contest import Figures
from servers.interface import MODEL_ALONE, RINGFEED

OTHERS_AT_MOST = 0.05
P50_OF_GRPC, P50_OF_PIPE, TIMES_GRPC = 1 / 5, 1 / 2, 5.0


def p50_ratio(figures: Mapping[str, Figures], way: str) -> float | None:
    """RingFeed's p50 as a part of another's, the median of paired rounds; None without RingFeed."""
    if RINGFEED not in figures:
        return None
    return _median_ratio(figures[RINGFEED].p50_us, figures[way].p50_us)


def throughput_ratio(figures: Mapping[str, Figures], way: str) -> float | None:
    """RingFeed's replies per second as a multiple of another's, the median of paired rounds; None without RingFeed."""
    if RINGFEED not in figures:
        return None
    return _median_ratio(figures[RINGFEED].replies_per_second, figures[way].replies_per_second)


def print_round_trips(title: str, figures: Mapping[str, Figures], missing: Mapping[str, str]) -> None:
    """Print each way's latency, who is missing, and how far the targets are met."""
    print(f"\n\n{title}\n{'':28}{'p50':>12}{'p99':>12}{'p50 - model':>14}   RingFeed's p50 is")
    for way, each in sorted(figures.items(), key=lambda item: item[1].latency_us(50)):
        around_us = [own - model for own, model in zip(each.p50_us, figures[MODEL_ALONE].p50_us, strict=True)]
        latencies = f"{each.latency_us(50):9.0f} us{each.latency_us(99):9.0f} us{statistics.median(around_us):11.0f} us"
        print(f"{way:28}{latencies}   {_text(p50_ratio(figures, way), 'of it')}")
    _print_missing(missing)
    for peer, target in (("gRPC", P50_OF_GRPC), ("Pipe", P50_OF_PIPE)):
        ways = [way for way in figures if way.startswith(peer)]
        if ways and RINGFEED in figures:
            best = min(ways, key=lambda way: figures[way].latency_us(50))
            print(f"target: p50 at most {target:.2f} of {best}: {_text(p50_ratio(figures, best))}")


def print_throughput(title: str, figures: Mapping[str, Figures], missing: Mapping[str, str]) -> None:
    """Print each way's replies per second and latency, who is missing, and how far the target is met."""
    print(f"\n\n{title}\n{'':28}{'replies/s':>12}{'p50':>12}{'p99':>12}   RingFeed gives")
    for way, each in sorted(figures.items(), key=lambda item: -statistics.median(item[1].replies_per_second)):
        latencies = f"{each.latency_us(50):9.0f} us{each.latency_us(99):9.0f} us"
        text = _text(throughput_ratio(figures, way), "times as many")
        print(f"{way:28}{statistics.median(each.replies_per_second):12.0f}{latencies}   {text}")
    _print_missing(missing)
    ways = [way for way in figures if way.startswith("gRPC")]
    if ways and RINGFEED in figures:
        best = max(ways, key=lambda way: statistics.median(figures[way].replies_per_second))
        print(f"target: at least {TIMES_GRPC:g} times {best}: {_text(throughput_ratio(figures, best))}")


def print_other_load(load: OtherLoad) -> None:
    """Say how busy others kept the machine, and so what the figures are worth."""
    share = load.cores() / len(os.sched_getaffinity(0))
    print(f"others took {share:.0%} of the cores{': not to be quoted' if share > OTHERS_AT_MOST else ''}")


def _print_missing(missing: Mapping[str, str]) -> None:
    for way, reason in missing.items():
        print(f"{way:28}missing: {reason}")


def _text(ratio: float | None, unit: str = "") -> str:
    return "-" if ratio is None else f"{ratio:.2f} {unit}".rstrip()


def _median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    return statistics.median(above / below for above, below in zip(numerators, denominators, strict=True))
