"""A race's figures as a plain table for the terminal, and as JSON."""

from __future__ import annotations

import math
import statistics
from typing import Any

from pipelines.interface import REFERENCE
from pipelines.race import Entrant, Outcome

NOTABLE_SHARE_OF_CORES = 0.05


def table(outcome: Outcome) -> str:
    """The figures of one race as aligned text."""
    rows = [_row(entrant, outcome) for entrant in outcome.entrants]
    header = ("pipeline", "start-up s", f"{outcome.workload.unit}/s", "lowest - highest", "vs RingFeed", "of limit")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [_line(header, widths), "  ".join("-" * width for width in widths)]
    lines += [_line(row, widths) for row in rows]
    return "\n".join(f"  {line}".rstrip() for line in [*lines, "", *_limit_lines(outcome)])


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def _row(entrant: Entrant, outcome: Outcome) -> tuple[str, ...]:
    if not entrant.items_per_second:
        return (entrant.label, "not here", "-", "-", "-", "-")
    median = entrant.median_items_per_second
    reference = next((one.median_items_per_second for one in outcome.entrants if one.name == REFERENCE), math.nan)
    limit = outcome.median_cost.limit_items_per_second(outcome.core_count)
    return (
        entrant.label,
        f"{entrant.start_up_seconds:.1f}",
        f"{median:,.0f}",
        f"{min(entrant.items_per_second):,.0f} - {max(entrant.items_per_second):,.0f}",
        "-" if math.isnan(reference) else f"{median / reference:.2f}",
        f"{median / limit:.2f}",
    )


def _limit_lines(outcome: Outcome) -> list[str]:
    cost, workload = outcome.median_cost, outcome.workload
    limit = cost.limit_items_per_second(outcome.core_count)
    lines = [
        f"limit: {limit:,.0f}/s = {outcome.core_count} cores / ({cost.preprocess_seconds * 1e3:.3g} ms preprocess"
        f" + {cost.model_seconds * 1e3:.3g} ms model), CPU time of one thread per item",
        f"{len(workload.items):,} {workload.unit} per run, {_of_runs(len(outcome.costs))},"
        f" {workload.worker_count} workers, batches of {workload.batch_size}",
    ]
    others = statistics.median(outcome.other_load_cores)
    if others > NOTABLE_SHARE_OF_CORES * outcome.core_count:
        lines.append(f"other programs took {others:.1f} of the {outcome.core_count} cores meanwhile: do not quote this")
    return lines


def _of_runs(count: int) -> str:
    return "one run" if count == 1 else f"medians of {count} interleaved runs"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """One race: every single run, so that other statistics can be made of it."""
    cost = outcome.median_cost
    return {
        "name": outcome.workload.name,
        "items": len(outcome.workload.items),
        "batch_size": outcome.workload.batch_size,
        "workers": outcome.workload.worker_count,
        "sample_shape": list(outcome.workload.sample_shape),
        "sample_dtype": outcome.workload.sample_dtype,
        "largest_difference": outcome.largest_difference,
        "other_load_cores": outcome.other_load_cores,
        "limit": {
            "items_per_second": cost.limit_items_per_second(outcome.core_count),
            "preprocess_seconds": [one.preprocess_seconds for one in outcome.costs],
            "model_seconds": [one.model_seconds for one in outcome.costs],
        },
        "pipelines": [_entrant_as_json(entrant) for entrant in outcome.entrants],
    }


def _entrant_as_json(entrant: Entrant) -> dict[str, Any]:
    if entrant.missing is not None:
        return {"name": entrant.name, "label": entrant.label, "missing": entrant.missing}
    return {
        "name": entrant.name,
        "label": entrant.label,
        "start_up_seconds": entrant.start_up_seconds,
        "median_items_per_second": entrant.median_items_per_second,
        "items_per_second": entrant.items_per_second,
    }
