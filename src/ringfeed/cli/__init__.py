"""Check this machine and models for RingFeed, list rings, and remove the rings of dead owners.

The command `ringfeed`. It may not do anything that the package itself cannot do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import RingFeedError
from ..inventory import SegmentInfo, clean, list_segments
from ..version import VERSION
from .doctor import findings
from .model_doctor import model_findings

_NOT_POSSIBLE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        0; or 1 if `doctor` found that rings cannot work here or the model cannot be served, or if a command failed.
    """
    parser = argparse.ArgumentParser(prog="ringfeed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"ringfeed {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_doctor(commands)
    for name, help_text in (
        ("list", "list the rings that have a name on this machine, including those of dead owners"),
        ("clean", "remove the rings of dead owners; never a ring whose owner is alive"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("pattern", nargs="?", default="*", help="a shell pattern for the names of rings")
    commands.choices["clean"].add_argument(
        "--dry-run", action="store_true", help="list the rings without removing them"
    )
    given = parser.parse_args(arguments)
    try:
        if given.command == "doctor":
            return _doctor(given)
        if given.command == "list":
            return _show(list_segments(given.pattern), "no rings")
        return _show(clean(given.pattern, dry_run=given.dry_run), "nothing to remove")
    except RingFeedError as error:
        print(f"ringfeed: {error}", file=sys.stderr)
        return 1


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor", help="check this machine, or check whether a model can be served, and name remedies"
    )
    doctor.add_argument("model", nargs="?", help="a .keras or .h5 file, or the folder of a SavedModel")
    doctor.add_argument("--signature", help="check this signature of a SavedModel")
    doctor.add_argument("--tags", nargs="+", help="check the graph of these tags")
    doctor.add_argument("--warm-up", metavar="FILE", help="try it on rows of a .npz or .npy file, not on zeros")
    doctor.add_argument("--no-tensorflow", action="store_true", help="do not import TensorFlow, which takes seconds")


def _doctor(given: argparse.Namespace) -> int:
    status = 0
    if given.model is None:
        found = findings(with_tensorflow=not given.no_tensorflow)
    else:
        found = model_findings(given.model, given.signature, given.tags, given.warm_up)
    for finding in found:
        print(f"{'ok' if finding.is_well else 'NO':3} {finding.subject}: {finding.fact}", flush=True)
        if finding.is_vital and not finding.is_well:
            status = _NOT_POSSIBLE
    return status


def _show(segments: list[SegmentInfo], nothing: str) -> int:
    for info in segments:
        owner = {True: "alive", False: "owner dead", None: "another user's"}[info.owner_alive]
        what = "slots"
        if info.ring_inode is not None:  # it outlives the engine that created it, and is removed with its ring
            owner, what = "replies to requests", "cells"
        record = "" if info.slots is None else f", {info.slots} {what} of {info.spec!r}"
        print(f"{info.name}: {owner}, {info.bytes / 1e6:.1f} MB, {info.age_seconds:.0f} s old{record}")
    if not segments:
        print(nothing)
    return 0
