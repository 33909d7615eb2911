"""Models, and engines in processes of their own, for the tests of engines and clients."""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

import numpy as np

import ringfeed
from ringfeed.testing import ManualPolicy
from support import Child, states, wait_until


def first_number(x: Any) -> Any:
    """Return the first number of each record: a model for the rings of the fixtures."""
    return x[:, 0]


def x_of(number: int) -> np.ndarray:
    """Return the only field of a record that holds a number."""
    return np.full(512, number, np.int64)


def rows_of(numbers: Any) -> np.ndarray:
    """Return the field for several records, one row for each number."""
    return np.repeat(np.asarray(list(numbers), np.int64)[:, None], 512, axis=1)


def all_is_free(ring: ringfeed.Ring, pool: Any) -> bool:
    """Tell whether every slot and every reply cell is free."""
    pool.cells.recover()
    ring.recover()
    return states(ring) == {"free": ring.slots} and states(pool.cells) == {"free": pool.cells.slots}


def wait_until_free(ring: ringfeed.Ring, pool: Any) -> None:
    wait_until(lambda: all_is_free(ring, pool))


# ---- Models ------------------------------------------------------------------------------------------


def plus_one(x: Any) -> Any:
    return x[:, 0] + 1


def two_outputs(x: Any) -> Any:
    return {"number": x[:, 0], "twice": x[:, 0] * 2}


class Logs:
    """A model that writes each number into a file, and never returns from a batch with the number `stuck`."""

    def __init__(self, path: str, stuck: int | None = None) -> None:
        self.path = path
        self.stuck = stuck

    def __call__(self, x: Any) -> Any:
        import tensorflow as tf

        def look(numbers: Any) -> Any:
            given = [int(number) for number in numbers]
            with open(self.path, "ab", buffering=0) as file:
                file.write("".join(f"{number}\n" for number in given).encode())
            while self.stuck in given:
                time.sleep(0.01)
            return numbers

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))


class Seen:
    """A model that records the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, x: Any) -> Any:
        import tensorflow as tf

        def look(numbers: Any) -> Any:
            self.batches.append(numbers.numpy().tolist())
            self.may_go_on.wait()
            return numbers

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))

    def rows(self) -> list[int]:
        return [number for batch in self.batches for number in batch]

    def forget(self) -> Seen:
        self.batches.clear()
        return self


class Broken:
    """A model that records its calls, and calls `why`, if it is set, with the numbers of each batch: it may raise."""

    def __init__(self, why=None):
        self.why = why
        self.calls: list[list[int]] = []

    def __call__(self, x):
        import tensorflow as tf

        def look(numbers):
            given = numbers.numpy().tolist()
            self.calls.append(given)
            if self.why is not None:
                self.why(given)
            return numbers

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))


def no_session(given):
    raise RuntimeError("the session is broken")


def outcomes(client, numbers):
    futures = [client.submit(x_of(number), timeout=60) for number in numbers]
    return [future.exception() or int(future.result()) for future in futures]


def logged(path: Any) -> list[int]:
    """Return the numbers that `Logs` wrote, without those of the warm-up."""
    return [number for number in map(int, open(path).read().split()) if number]


# ---- Engines in processes of their own ---------------------------------------------------------------


def _run_engines(pipe: Any) -> None:
    """Obey the test: start an engine, stop it, and so on. It imports TensorFlow before it says that it is ready."""
    from ringfeed.engine.engine import Engine

    engine = ring = None
    pipe.tell("ready")
    while (order := pipe.hear()) is not None:
        what, given = order
        try:
            if what == "serve":
                create = given.pop("create", None)
                name, model = given.pop("name"), given.pop("model")
                ring = ringfeed.Ring.attach(name) if create is None else ringfeed.Ring.create(name, **create)
                manual = given.pop("manual", None)
                if manual is not None:
                    given["policy"] = ManualPolicy(manual)
                engine = Engine(ring, model, **given).start()
                answer = None
            elif what == "release":
                answer = engine.policy.release(given)
            elif what == "stop":
                if engine is not None:
                    engine.stop()
                if ring is not None:
                    ring.__exit__(None, None, None)
                engine = ring = answer = None
            else:
                answer = getattr(engine, what)(*given)
            pipe.tell(("done", answer))
        except BaseException:
            pipe.tell(("failed", traceback.format_exc()))


class EngineProcess:
    """An engine in a process of its own, which obeys the test. The process can serve one ring after another."""

    def __init__(self) -> None:
        self.child = Child(_run_engines)
        self._ready = False

    def tell(self, what: str, given: Any = ()) -> None:
        if not self._ready:
            assert self.child.told() == "ready"
            self._ready = True
        self.child.tell((what, given))

    def hear(self) -> Any:
        outcome, answer = self.child.told()
        assert outcome == "done", answer
        return answer

    def do(self, what: str, given: Any = ()) -> Any:
        self.tell(what, given)
        return self.hear()

    def serve(self, ring: ringfeed.Ring | str, model: Any = first_number, **options: Any) -> EngineProcess:
        name = ring if isinstance(ring, str) else ring.name
        if "manual" not in options:
            options.setdefault("linger", 0.0)
        self.do("serve", {"name": name, "model": model, **options})
        return self

    def stop(self) -> None:
        self.do("stop")


class Spares:
    """Processes that have imported TensorFlow already, for tests that need an engine."""

    def __init__(self, count: int) -> None:
        self._all = [EngineProcess() for _ in range(count)]
        self._idle = list(self._all)

    def take(self) -> EngineProcess:
        return self._idle.pop(0)

    def give(self, engine: EngineProcess) -> None:
        self._idle.append(engine)

    def end(self) -> None:
        for engine in self._all:
            engine.child.end()
