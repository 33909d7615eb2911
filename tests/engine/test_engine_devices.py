"""The statistics of an engine with replicas on two devices."""

from __future__ import annotations

import numpy as np

import ringfeed
from two_devices import on_two_cpus, two_cpus  # noqa: F401


@on_two_cpus
def test_the_rows_of_each_device_add_up_to_all_rows() -> None:
    with (
        ringfeed.Ring.create(None, {"x": ((16,), "float32")}, slots=64) as ring,
        ringfeed.Engine(ring, lambda x: 2 * x, batch_size=4, linger=0.0, devices=["CPU:0", "CPU:1"]) as engine,
        ringfeed.Client(ring) as client,
    ):
        assert engine.stats().device_rows == (0, 0)
        client.predict(np.zeros((200, 16), np.float32))
        stats = engine.stats()
    assert stats.devices == ("CPU:0", "CPU:1")
    assert len(stats.device_rows) == 2
    assert sum(stats.device_rows) == stats.rows == 200
