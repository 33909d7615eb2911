"""The figures of a comparison as a plain table for the terminal, and as JSON."""

from __future__ import annotations

import statistics
from typing import Any

from measuring.machine import core_count
from measuring.rounds import Sample
from pipelines.comparison import LIMIT, PipelineComparison
from pipelines.interface import PIPELINES, REFERENCE

NOTABLE_SHARE_OF_CORES = 0.05


def table(comparison: PipelineComparison) -> str:
    """The figures of a comparison as aligned text."""
    rows = [_row(PIPELINES[name].label, comparison) for name in (*comparison.names, *comparison.names_apart)]
    header = ("pipeline", "start-up s", f"{comparison.workload.unit}/s", "lowest - highest", "vs RingFeed", "of limit")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [_line(header, widths), "  ".join("-" * width for width in widths)]
    lines += [_line(row, widths) for row in rows]
    return "\n".join(f"  {line}".rstrip() for line in [*lines, "", *_limit_lines(comparison)])


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def _row(label: str, comparison: PipelineComparison) -> tuple[str, ...]:
    rates = _items_per_second(comparison.work.samples.get(label, []))
    if not rates:
        return (label, "missing", "-", "-", "-", "-")
    median = statistics.median(rates)
    reference = _items_per_second(comparison.work.samples.get(PIPELINES[REFERENCE].label, []))
    return (
        label,
        f"{comparison.work.notes[label]['start-up s']:.1f}",
        f"{median:,.0f}",
        f"{min(rates):,.0f} - {max(rates):,.0f}",
        f"{median / statistics.median(reference):.2f}" if reference else "-",
        f"{median / statistics.median(_items_per_second(comparison.work.samples[LIMIT])):.2f}",
    )


def _items_per_second(samples: list[Sample]) -> list[float]:
    return [1 / sample.value for sample in samples]


def _limit_lines(comparison: PipelineComparison) -> list[str]:
    cost, workload, cores = comparison.median_cost, comparison.workload, core_count()
    preprocess = f"{cost.preprocess_seconds * 1e3:.3g} ms preprocess"
    limit = cost.limits(cores, workload.worker_count).usual_threads
    if limit < cost.limits(cores, cores).usual_threads:
        formula = f"{workload.worker_count} workers / {preprocess}"
    else:
        formula = f"{cores} cores / ({preprocess} + {cost.model_seconds * 1e3:.3g} ms model)"
    lines = [
        f"limit: {limit:,.0f}/s = {formula}, CPU time per item, with all cores busy",
        f"{len(workload.items):,} {workload.unit} per run, {_of_runs(len(comparison.costs))},"
        f" {workload.worker_count} workers, batches of {workload.batch_size}",
    ]
    if comparison.work.others_share > NOTABLE_SHARE_OF_CORES:
        lines.append(
            f"other programs took {comparison.work.others_share:.0%} of the cores meanwhile: do not quote this"
        )
    return lines


def _of_runs(count: int) -> str:
    return "one run" if count == 1 else f"medians of {count} interleaved runs"


def as_json(comparison: PipelineComparison) -> dict[str, Any]:
    """A comparison with every single run, for other statistics."""
    cost, workload = comparison.median_cost, comparison.workload
    return {
        "name": workload.name,
        "items": len(workload.items),
        "batch_size": workload.batch_size,
        "workers": workload.worker_count,
        "sample_shape": list(workload.sample_shape),
        "sample_dtype": workload.sample_dtype,
        "largest_difference": comparison.answers.largest_difference,
        "other_load_share": comparison.work.others_share,
        "limit": {
            "items_per_second": cost.limits(core_count(), workload.worker_count).usual_threads,
            "preprocess_seconds": [one.preprocess_seconds for one in comparison.costs],
            "model_seconds": [one.model_seconds for one in comparison.costs],
            "model_seconds_one_thread": [one.model_seconds_one_thread for one in comparison.costs],
        },
        "pipelines": [_pipeline_as_json(name, comparison) for name in (*comparison.names, *comparison.names_apart)],
    }


def _pipeline_as_json(name: str, comparison: PipelineComparison) -> dict[str, Any]:
    label = PIPELINES[name].label
    if label in comparison.work.missing:
        return {"name": name, "label": label, "missing": comparison.work.missing[label]}
    rates = _items_per_second(comparison.work.samples[label])
    return {
        "name": name,
        "label": label,
        "start_up_seconds": comparison.work.notes[label]["start-up s"],
        "median_items_per_second": statistics.median(rates),
        "items_per_second": rates,
    }
