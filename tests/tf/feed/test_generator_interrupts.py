"""Programs whose main thread waits in a `from_generator` over a ring: Ctrl-C and the exit end the wait."""

from __future__ import annotations

import pytest
from feeding import WAITS, end_a_wait_by_ctrl_c

from support import run_program

pytestmark = pytest.mark.usefixtures("quick_collection")

ELEMENTS = """
function = ringfeed.tf.generator(ring, 2, structure="x")
elements = tf.data.Dataset.from_generator(function, output_signature=ringfeed.tf.element_spec(ring, structure="x"))
"""


@pytest.mark.parametrize(
    "what", [each if each == "a loop" else pytest.param(each, marks=pytest.mark.slow) for each in WAITS]
)
def test_ctrl_c_ends_a_wait(ring, tmp_path, what):
    end_a_wait_by_ctrl_c(ring, tmp_path / "program.py", ELEMENTS, WAITS[what])


@pytest.mark.parametrize("prefetch", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_program_ends_while_a_generator_waits_in_the_background(ring_name, prefetch):
    status, printed, errors = run_program(
        f"""
        import threading
        import tensorflow as tf

        ring = ringfeed.Ring.create({ring_name!r}, {{"x": ((512,), "int64")}}, slots=8)
        ring.put({{"x": np.zeros(512, np.int64)}})
        function = ringfeed.tf.generator(ring, 2)
        made = tf.data.Dataset.from_generator(function, output_signature=ringfeed.tf.element_spec(ring))
        elements = iter(made.prefetch({prefetch}) if {prefetch} else made)
        next(elements)
        if not {prefetch}:
            threading.Thread(target=next, args=[elements, None], daemon=True).start()
        before = ring.stats()["take_wait_ns"]
        while ring.stats()["take_wait_ns"] == before:
            pass
        print("waits")
        """
    )
    assert (status, printed) == (0, "waits\n"), errors
    assert "terminate called" not in errors
