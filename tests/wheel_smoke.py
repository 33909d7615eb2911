"""A short trial of an installed wheel, without TensorFlow and without pytest: `python tests/wheel_smoke.py`.

A producer process fills a ring, this process takes the records, and the command lists segments. The files that
TensorFlow loads later must be there.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import ringfeed

RECORDS = 500


def produce(name: str) -> None:
    with ringfeed.Ring.attach(name) as ring, ring.producing():
        for number in range(RECORDS):
            ring.put({"x": np.full((5, 7), number, np.float32)}, tag=number)


def main() -> None:
    name = f"wheel-smoke-{os.getpid()}"
    with ringfeed.Ring.create(name, {"x": ((5, 7), "float32")}, slots=64) as ring:
        producer = multiprocessing.get_context("spawn").Process(target=produce, args=(name,))
        producer.start()
        tags = []
        for batch in ring.batches(max_rows=16):
            assert (batch["x"] == np.asarray(batch.tags, np.float32)[:, None, None]).all()
            tags += list(batch.tags)
        producer.join()
    assert producer.exitcode == 0
    assert tags == list(range(RECORDS))
    listed = subprocess.run([sys.executable, "-m", "ringfeed", "list"], check=True, capture_output=True, text=True)
    assert name not in listed.stdout
    installed = Path(ringfeed.__file__).parent
    assert list(installed.glob("_tf_op*.so")), "the wheel lacks the op for TensorFlow"
    assert (installed / "py.typed").exists()
    print(f"ringfeed {ringfeed.__version__} on Python {sys.version.split()[0]}: {RECORDS} records from another process")


if __name__ == "__main__":
    main()
