"""Cache misses of large records, in a default ring and in one without a window: `make profile`. Asserts nothing.

callgrind simulates the caches, which works even if a virtual machine has no counters. Here it simulates the
second-level cache of one core, so that a miss is a line from farther away. It treats a streaming store like any store.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from limits.build import BUILT, LimitsMissing, program

SIZES = {150_528: "150 KB", 602_112: "602 KB"}
NEAR_CACHE = "2097152,16,64"  # bytes, associativity, bytes of a line
COUNT = 100


def misses(record_bytes: int, use: str, folder: Path) -> float:
    """Return the cache lines of a record, read or written, that are not in the second-level cache."""
    output = folder / f"{record_bytes}-{use}"
    options = ["--tool=callgrind", "--cache-sim=yes", f"--LL={NEAR_CACHE}", "--toggle-collect=measured_pass"]
    command = [str(program("passes")), str(record_bytes), str(COUNT), use]
    subprocess.run(
        ["valgrind", "-q", *options, f"--callgrind-out-file={output}", *command], check=True, capture_output=True
    )
    text = output.read_text()
    events = re.search(r"^events: (.*)$", text, re.MULTILINE)
    totals = re.search(r"^(?:totals|summary): (.*)$", text, re.MULTILINE)
    assert events is not None
    assert totals is not None
    counts = dict(zip(events[1].split(), map(int, totals[1].split()), strict=False))
    return (counts["DLmr"] + counts["DLmw"]) / COUNT


def main() -> int:
    if not shutil.which("valgrind"):
        print("skipped: valgrind is not installed (Debian: valgrind)")
        return 0
    try:
        program("passes")
    except LimitsMissing as reason:
        print(f"skipped: {reason}")
        return 0
    print("\nLines per record that are not in a cache of 2 MiB, put and taken one by one")
    with tempfile.TemporaryDirectory(dir=BUILT) as folder:
        for record_bytes, size in SIZES.items():
            hot, walked = (misses(record_bytes, use, Path(folder)) for use in ("hot", "walked"))
            print(f"  {size}: {hot:8.1f} of {record_bytes // 64:,}; in a ring that is walked {walked:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
