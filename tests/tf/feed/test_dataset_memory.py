"""The model process does not grow with the number of records; benchmarks/bench_memory.py takes a million."""

from __future__ import annotations

import pytest

from support import run_program

pytestmark = pytest.mark.usefixtures("way_of_long_tests")


def test_memory_does_not_grow_with_the_records():
    status, printed, errors = run_program(
        """
        import threading
        import tensorflow as tf

        def resident_kilobytes():
            return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])

        total = tf.function(lambda x: tf.reduce_sum(x))
        with ringfeed.Ring.create(None, {"x": ((8, 8), "float32")}, slots=256) as ring:
            def produce():
                for _ in range(1000 * 64):
                    ring.put({"x": np.ones((8, 8), np.float32)})
                ring.finish()

            threading.Thread(target=produce).start()
            rows = before = 0
            for element in ringfeed.tf.dataset(ring, 64, structure="x", min_rows=64, prefetch=1):
                assert total(element).numpy() == element.shape[0] * 64
                rows += element.shape[0]
                if rows == 6400:
                    before = resident_kilobytes()
            print(rows, resident_kilobytes() - before)
        """
    )
    assert status == 0, errors
    rows, grown = map(int, printed.split())
    assert rows == 64_000
    assert grown < 8_000
