"""Orders to workers, and their answers, at odd times and of odd kinds."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import resource
import signal
from typing import Any

import numpy as np
import pytest
from predict_runs import running, spec_of

from ringfeed.errors import RingFeedError
from ringfeed.machine import memory_files
from ringfeed.ring import Ring
from ringfeed.workers.commands import OpenRings, Probe
from ringfeed.workers.failure_record import FAILURE_BYTES
from ringfeed.workers.items import SpillFile
from ringfeed.workers.pool import WorkerPool
from ringfeed.workers.predict_rings import nameless_ring
from ringfeed.workers.row_layout import choose_layout, fields_spec
from support import is_gone, run_program, wait_until


def row(item: int) -> np.ndarray:
    return np.full(4, item, np.float32)


def test_an_item_can_be_probed_while_the_rings_are_open() -> None:
    with running(lambda item: np.full(item, item, np.float32), workers=1) as run:
        assert len(run([4] * 50)[0]) == 50
        for number in range(1, 5):
            assert run.pool.probe(0, number).leaves == [((number,), "float32")]
        assert len(run([4] * 50)[0]) == 50


def test_the_answer_to_an_abandoned_probe_is_not_used_for_the_next() -> None:
    from ringfeed.workers.items import EncodedItem

    with running(lambda item: np.zeros(item, np.float32)) as run:
        encoded = EncodedItem(3)
        message = np.zeros(encoded.message_bytes, np.uint8)
        encoded.write(message)
        descriptor = memory_files.create_with("item", message)
        run.pool._workers[0].send(Probe(-1), (descriptor,))  # as before a Ctrl-C
        os.close(descriptor)
        assert run.pool.probe(0, 8).leaves == [((8,), "float32")]


def no_more_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def test_a_worker_that_cannot_open_its_rings_is_reported_and_not_replaced_for_ever() -> None:
    def write(item: int, out: np.ndarray) -> None:
        out[...] = item

    with running(write, spec=spec_of((4,)), initializer=no_more_files) as run:
        wait_until(lambda: run.pool.replace_dead() or all(worker.is_ready for worker in run.pool._workers))
        with pytest.raises(RingFeedError, match="open files"):
            run(range(10))


def joined_by_all(ring: Ring) -> list[Ring]:
    """Open a ring repeatedly until it takes no more participants."""
    joined = []
    while True:
        try:
            joined.append(Ring.attach_descriptor(os.dup(ring.descriptor), ring.name))
        except RingFeedError as error:
            if "every participant entry is in use" not in str(error):
                raise
            return joined


def test_a_worker_without_a_place_in_the_rings_is_reported_and_not_replaced_for_ever() -> None:
    with running(row, workers=1) as run:
        run(range(10))
        pid, rows = run.pool.process_ids[0], run.loop.rows
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid))
        rows.recover()
        joined = joined_by_all(rows)  # this also takes the place of the dead worker
        try:
            with pytest.raises(RingFeedError, match=r"(?s)could not open the rings.*every participant entry"):
                run(range(10))
        finally:
            for ring in joined:
                ring.close()


@pytest.mark.parametrize("workers", [1, 512, 600])
def test_the_rings_have_a_place_for_each_worker_and_for_those_that_replace_them(workers: int) -> None:
    ring = nameless_ring("rows", {"x": ((), "int64")}, 64, workers)
    joined = [ring]
    try:
        joined += joined_by_all(ring)
        assert len(joined) > 2 * workers
    finally:
        for handle in joined:
            handle.close()


def test_more_workers_than_rings_have_places_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4001 worker processes.*at most 4000"):
        WorkerPool(row, 4001)


def test_a_named_tuple_of_the_main_module_is_known_on_both_sides() -> None:
    body = """
    import collections
    from predict_runs import running, spec_of
    Pair = collections.namedtuple("Pair", "a b")
    def pair(item):
        return Pair(np.float32(item), np.full(3, item))
    def model(batch, template):
        assert type(template) is Pair, template
        return np.array(batch[str(template.a)])
    with running(pair, model=model) as run:
        for _ in range(2):
            results, failures = run(range(50))
            assert not failures, failures[0]
            assert [float(results[n]) for n in range(50)] == list(range(50))
    """
    import sys

    here = os.path.dirname(__file__)
    status, _, errors = run_program(body, PYTHONPATH=os.pathsep.join([here, os.path.dirname(here), *sys.path]))
    assert status == 0, errors


def test_descriptors_of_a_worker_do_not_add_up() -> None:
    def count(item: Any) -> np.ndarray:
        return np.int64(len(os.listdir("/proc/self/fd")))

    with running(count, workers=1) as run:
        first = None
        for _ in range(3):
            run(range(4))
            for _ in range(20):
                run.pool.probe(0, np.zeros(1 << 18))
            counts = collections.Counter(int(value) for value in run(range(20))[0].values())
            assert len(counts) == 1
            assert first in (None, *counts)
            first = next(iter(counts))


def row_of_the_process(item: tuple[int, str | None]) -> np.ndarray:
    """Return the process id repeatedly. With a folder, write `entered` there and wait for the file `go`."""
    import pathlib
    import time

    size, folder = item
    if folder is not None:
        pathlib.Path(folder, "entered").write_text(str(os.getpid()))
        while not pathlib.Path(folder, "go").exists():
            time.sleep(0.001)
    return np.full(size, os.getpid(), np.int64)


def descriptors_of(process_id: int) -> list[str]:
    folder = f"/proc/{process_id}/fd"
    return sorted(os.readlink(f"{folder}/{name}").partition(":")[0] for name in os.listdir(folder))


def test_a_busy_worker_keeps_nothing_of_superseded_commands(tmp_path: pathlib.Path) -> None:
    with running(row_of_the_process) as run:
        while len({int(row[0]) for row in run([(10, None)] * 50)[0].values()}) < 2:
            pass
        before = {pid: descriptors_of(pid) for pid in run.pool.process_ids}
        abandoned = run.chunks([*[(10, None)] * 32, (10, str(tmp_path)), *[(10, None)] * 5])
        next(abandoned)
        busy = int(wait_until(lambda: (tmp_path / "entered").exists() and (tmp_path / "entered").read_text()))
        abandoned.close()
        for size in range(11, 15):
            assert {int(row[0]) for row in run([(size, None)] * 5)[0].values()} == set(run.pool.process_ids) - {busy}
        (tmp_path / "go").touch()
        while busy not in {int(row[0]) for row in run([(14, None)] * 50)[0].values()}:
            pass
        assert {pid: descriptors_of(pid) for pid in run.pool.process_ids} == before


def test_a_ready_worker_that_cannot_attach_to_the_rings_is_reported_and_not_replaced_for_ever() -> None:
    spec = spec_of((4,))
    layout = choose_layout(spec, None)
    message, failure = ({name: ((FAILURE_BYTES,), "uint8")} for name in ("message", "failure"))
    pool = WorkerPool(lambda item: np.zeros(4, np.float32), 2)
    with (
        contextlib.closing(pool),
        contextlib.closing(SpillFile()) as spill,
        Ring.create_nameless(message, 8, participants=2) as tasks,  # this process and one of the two workers
        Ring.create_nameless(fields_spec(layout), 8) as rows,
        Ring.create_nameless(failure, 8) as failures,
    ):
        wait_until(lambda: pool.replace_dead() or all(worker.is_ready for worker in pool._workers))
        pool.open(OpenRings(layout, spec), [tasks], rows, failures, spill.descriptor)

        def replace_until_five_died() -> None:
            died = 0
            while died < 5:
                died += pool.replace_dead()

        with pytest.raises(RingFeedError, match=r"could not open the rings(?s:.*)participant"):
            replace_until_five_died()
