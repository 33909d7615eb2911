"""Tensors of other libraries over the ring's memory that are alive when the interpreter exits."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from support import run_program, states

# Each program keeps a tensor over the batch, and a tensor that was computed from it.
KEEPING = {
    "tensorflow": "import ringfeed.tf; kept = ringfeed.tf.tensors(batch, 'x')",
    "torch": "import torch; kept = torch.from_dlpack(batch.dlpack('x'))",
    "jax": "import jax.dlpack; kept = jax.dlpack.from_dlpack(batch.dlpack('x'))",
}


@pytest.mark.parametrize("library", KEEPING)
def test_a_process_that_ends_with_a_tensor_alive_ends_well_and_gives_the_slots_back(make_ring, library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    ring = make_ring({"x": ((1024,), "float32")})
    for _ in range(3):
        ring.put({"x": np.ones(1024, np.float32)})
    before = states(ring)
    program = f"""
        ring = ringfeed.Ring.attach({ring.name!r})
        batch = ring.take(2)
        {KEEPING[library]}
        assert float((kept + 1).sum() if hasattr(kept, "sum") else (kept + 1).numpy().sum()) == 4096
        batch.release()
        assert ring.stats()["taken"] == 2
        sys.modules["kept"] = (kept, ring)
        """
    status, _, complaint = run_program(program)
    assert status == 0, complaint
    ring.recover()
    assert ring.stats()["participants"] == 1
    # The slots are released at the exit, or recovered because the process died.
    assert states(ring) in (before, {"free": before["free"] + 2, "ready": 1})
