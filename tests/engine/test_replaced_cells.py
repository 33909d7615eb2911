"""The reply cells of an engine that was replaced leave the memory of its clients at once.

No model is needed: the engine is `plain_engine.PlainEngine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from pathlib import Path

import pytest
from plain_engine import PlainEngine, answer_threads
from serving import rows_of, x_of

import ringfeed
from ringfeed.client.reply_pool import PoolSettings
from support import wait_until

WAYS = {
    "predict": lambda client: client.predict(x_of(1), timeout=60),
    "predict of rows": lambda client: client.predict(rows_of([1, 2]), timeout=60),
    "submit": lambda client: client.submit(x_of(1), timeout=60).result(),
    "submit_rows": lambda client: client.submit_rows(rows_of([1, 2]), timeout=60).result(),
    "an exception of a future": lambda client: throw(client.submit(x_of(1), timeout=60).exception()),
    "apredict": lambda client: throw(asyncio.run(error_of(client.apredict(x_of(1), timeout=60)))),
    "apredict_rows": lambda client: throw(asyncio.run(error_of(client.apredict_rows(rows_of([1, 2]), timeout=60)))),
}


async def error_of(answer):
    """Return the error of a coroutine without its frames: a task that fails is a reference cycle itself."""
    try:
        await answer
    except ringfeed.EngineDied as error:
        return error.with_traceback(None)


def throw(error):
    if error is not None:
        raise error


def maps_of_cells(ring):
    return sum(f"{ring.name}.replies" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.fixture
def without_garbage_collection():
    """Keep reference cycles alive, as a program does that makes little garbage."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
@pytest.mark.usefixtures("without_garbage_collection")
def test_the_cells_of_engines_that_were_replaced_go_with_them(ring, make_client, ask):
    def ask_until_it_dies():
        with contextlib.suppress(ringfeed.EngineDied):
            while True:
                ask(client)

    client, kept, counts = None, [], []
    for number in range(4):
        with PlainEngine(
            ring, PoolSettings(single_output=True, max_queue_size=10 + number)
        ) as engine:  # new cells each time
            engine.open()
            client = client or make_client(ring)
            while True:
                with contextlib.suppress(ringfeed.EngineDied):
                    ask(client)
                    kept.append(client.submit(x_of(3), timeout=60))
                    assert int(kept[-1].result()) == 3
                    break
            engine.close_gate()
            thread = threading.Thread(target=ask_until_it_dies)
            thread.start()
            wait_until(lambda: ring.ready)
        thread.join()
        wait_until(lambda: not answer_threads())
        counts.append(maps_of_cells(ring))
    assert counts == counts[:1] * 4
