"""The processes that serve one model in several ways. Each way has a separate ring, and all ways but one are idle.

A device is one core here: TensorFlow's processor is split into two logical devices, and operations run in one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from devices.model import CUT_BEHIND, build, pictures

DEVICES = ["CPU:0", "CPU:1"]
ONE = "one device"
REPLICAS = "replicas in one process"
PROCESSES = "an engine process per device"
MIRRORED = "MirroredStrategy"
PIPELINE = "Pipeline of two stages"
WAYS = [ONE, REPLICAS, PROCESSES, MIRRORED, PIPELINE]
ALONE = "the model alone, called in a loop"


@contextmanager
def serve(rings: dict[str, str], rows: int, batch_size: int, orders: Connection) -> Iterator[None]:
    """Serve the ways whose rings are named; a thread answers commands about them."""
    with ExitStack() as stack:
        tf = _two_devices()
        model = build()
        engines: dict[str, list[Any]] = {}
        for way, name in rings.items():
            engines[way] = stack.enter_context(_served(way, name, model, batch_size, tf))
        alone = _called_in_a_loop(model, rows, batch_size, tf)
        threading.Thread(target=_listen, args=(orders, engines, alone), daemon=True).start()
        yield


def _two_devices() -> Any:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * len(DEVICES))
    return tf


@contextmanager
def _served(way: str, ring_name: str, model: Any, batch_size: int, tf: Any) -> Iterator[list[Any]]:
    """Yield the serving engines of one way."""
    import ringfeed

    options: dict[str, Any] = {"batch_size": batch_size, "linger": 0.0}
    with ringfeed.Ring.attach(ring_name) as ring:
        if way == PIPELINE:
            stages = ringfeed.split_model(model, at=[CUT_BEHIND])
            with ringfeed.Pipeline(stages, devices=DEVICES, ring=ring, **options) as pipeline:
                yield pipeline.engines
            return
        if way == MIRRORED:
            strategy = tf.distribute.MirroredStrategy(DEVICES)
            with strategy.scope():
                mirrored = build()
            mirrored.set_weights(model.get_weights())
            options |= {"strategy": strategy, "batch_size": len(DEVICES) * batch_size}  # each device has batch_size
            model = mirrored
        else:
            options["devices"] = DEVICES if way == REPLICAS else DEVICES[:1]
        with ringfeed.Engine(ring, model, **options) as engine:
            yield [engine]


def _listen(orders: Connection, engines: dict[str, list[Any]], alone: Callable[[], Any]) -> None:
    """Return the counters of a way's engines, or run the model alone."""
    try:
        while True:
            way = orders.recv()
            orders.send(alone() if way == ALONE else [engine.stats() for engine in engines[way]])
    except (EOFError, OSError):
        return


def _called_in_a_loop(model: Any, rows: int, batch_size: int, tf: Any) -> Callable[[], tuple[np.ndarray, float]]:
    """Return a function that returns the model's answers to the pictures, and the time in seconds."""
    data = pictures(rows)
    signature = [tf.TensorSpec((None, *data.shape[1:]), data.dtype)]
    call = tf.function(model, input_signature=signature).get_concrete_function()

    def run() -> tuple[np.ndarray, float]:
        started = time.perf_counter()
        parts = [call(tf.constant(data[at : at + batch_size])).numpy() for at in range(0, rows, batch_size)]
        return np.concatenate(parts), time.perf_counter() - started

    return run
