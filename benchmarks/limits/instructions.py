"""Instructions per operation of the C core, by function: `make profile`. Asserts nothing; skips without valgrind.

callgrind counts the instructions of one process, which is compiled with the flags of the extension. It cannot see the
cost of cache lines and locked operations, which `bench_limits.py` measures. Inlined functions count as part of their
callers.
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

OPERATIONS = {
    "put_1": ("put", "rf_put of one record of 64 bytes"),
    "publish_1": ("publish", "rf_claim of 1, rf_publish, drop"),
    "publish_64": ("publish", "rf_claim of 64, rf_publish, drop"),
    "take_1": ("take", "rf_take of 1, release"),
    "take_64": ("take", "rf_take of 64, release"),
}
COUNT = 2000
WORTH_SHOWING = 0.01  # of the operation
LINE = re.compile(r"^\s*([\d,]+) \([^)]*%\)\s+(.*)$")


def instructions(operation: str, folder: Path) -> list[tuple[str, float]]:
    """Return (function, instructions per operation) pairs, with the whole operation first."""
    output = folder / operation
    function = f"measured_{OPERATIONS[operation][0]}"
    arguments = ["--tool=callgrind", f"--toggle-collect={function}", f"--callgrind-out-file={output}"]
    subprocess.run(
        ["valgrind", "-q", *arguments, str(program("one_core")), operation, str(COUNT)],
        check=True,
        capture_output=True,
    )
    table = subprocess.run(
        ["callgrind_annotate", "--auto=no", "--threshold=100", str(output)], check=True, capture_output=True, text=True
    ).stdout
    each: dict[str, float] = {}
    for found in filter(None, map(LINE.match, table.splitlines())):
        # "file:function [object]", once for each file from which a part of the function was inlined.
        name = "all" if "PROGRAM TOTALS" in found[2] else re.split(r" \[|\.(?:part|isra|constprop)", found[2])[0]
        name = name.rpartition(":")[2]
        each[name] = each.get(name, 0.0) + int(found[1].replace(",", "")) / COUNT
    return sorted(each.items(), key=lambda item: -item[1])


def main() -> int:
    if not shutil.which("valgrind") or not shutil.which("callgrind_annotate"):
        print("skipped: valgrind is not installed (Debian: valgrind)")
        return 0
    try:
        program("one_core")
    except LimitsMissing as reason:
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory(dir=BUILT) as folder:
        for operation, (_, title) in OPERATIONS.items():
            print(f"\n{title}: instructions per operation")
            table = instructions(operation, Path(folder))
            for function, count in table:
                if count >= WORTH_SHOWING * table[0][1]:
                    print(f"  {count:10.1f}  {count / table[0][1]:6.1%}  {function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
