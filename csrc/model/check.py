"""Check the model with spin: every configuration must hold, and spin must catch every mutation.

It may not know the protocol, which the .pml files describe. Make targets: `model`, `model-long`, `model-smoke`. It
needs python3, cpp, gcc and spin. If spin is not installed, it fetches spin into build/ with apt, without root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

import other_searches
import ring_searches
from ring_searches import BITSTATES, SYMMETRIES
from searches import Bitstate, Configuration, Mutation, Symmetry
from spin import BITSTATE_MINUTES, BUILD, Result, check, fetch_spin, property_of

CONFIGURATIONS = ring_searches.CONFIGURATIONS + other_searches.CONFIGURATIONS
MUTATIONS = ring_searches.MUTATIONS + other_searches.MUTATIONS
SKIPPED = 77


def show(name: str, result: Result, verdict: str) -> None:
    print(
        f"{name:60} {result.states:>11,} states {result.seconds:6.1f} s {result.megabytes:5.0f} MB  {verdict}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="run only the searches that take seconds")
    parser.add_argument("--long", action="store_true", help="also run the searches that take hours and gigabytes")
    parser.add_argument("--only", help="run only the searches with this text in their name")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    spin = os.environ.get("SPIN") or shutil.which("spin") or fetch_spin()
    if not spin:
        print("SKIP model: spin is not in PATH and apt could not fetch it; install `spin`, or set SPIN to its path")
        return 0 if arguments.smoke else SKIPPED

    def wanted(entry: Configuration | Symmetry | Bitstate | Mutation) -> bool:
        return (
            (entry.smoke or not arguments.smoke)
            and (arguments.long or not entry.long)
            and (not arguments.only or arguments.only in entry.name)
        )

    failed = checked = 0
    for configuration in filter(wanted, CONFIGURATIONS):
        result = check(spin, BUILD / "pan", configuration.sets, model=configuration.model)
        holds = result.complete and not result.error
        failed += not holds
        checked += 1
        show(configuration.name, result, "holds" if holds else f"FAILED {result.error or 'not searched to the end'}")
    for pair in filter(wanted, SYMMETRIES):
        result = check(spin, BUILD / "pan", pair.sets, orbits=True)
        plain = check(spin, BUILD / "pan", pair.sets, symmetry=False)
        same = result.complete and plain.complete and result.stood_for == plain.states
        failed += not same
        checked += 1
        show(pair.name, result, f"{'' if same else 'FAILED '}stand for {result.stood_for:,} of {plain.states:,}")
    for large in filter(wanted, BITSTATES):
        result = check(spin, BUILD / "pan", large.sets, bitstate=True)
        failed += bool(result.error)
        checked += 1
        verdict = f"FAILED {result.error}" if result.error else "no error found, NOT EXHAUSTIVE:"
        ended = "ran to its end" if result.complete else f"ended after {BITSTATE_MINUTES} minutes"
        show(large.name, result, f"{verdict} {ended}, hash factor {result.hash_factor:.1f}")
    for mutation in filter(wanted, MUTATIONS):
        result = check(
            spin, BUILD / "pan", mutation.sets, mutation.name, model=mutation.model, backwards=mutation.backwards
        )
        failed += not result.error
        checked += 1
        verdict = f"caught: {property_of(result.error)}" if result.error else "FAILED: not caught"
        print(f"{mutation.name:22} {mutation.what:62} {result.seconds:6.1f} s  {verdict}", flush=True)
    print(f"model: {checked} checks, {failed} failed")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
