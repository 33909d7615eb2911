"""A worker that someone has taken over garbles its own items at most; it runs nothing in the predictor's process."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predict_runs import running

import ringfeed
from ringfeed.machine import memory_files
from ringfeed.workers.failures import Failure, describe_exception, rebuild_exception
from ringfeed.workers.item_errors import preprocess_error
from ringfeed.workers.messages import (
    LoadingFailed,
    ProbeResult,
    Ready,
    decode_failure,
    decode_message,
    encode_failure,
    encode_message,
)
from ringfeed.workers.plain_data import NotPlain
from ringfeed.workers.samples import sample_of
from support import run_program


class Payload:
    """An object whose pickle creates a file in the process that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def bodies(path: Path) -> dict[str, bytes]:
    """Return messages that a hostile worker may send. Reading one of them as a pickle creates the file."""
    return {
        "a pickle": pickle.dumps(Payload(path)),
        "a pickle of protocol 0": pickle.dumps(Payload(path), 0),
        "an answer with a pickle": pickle.dumps((1, Payload(path))),
        "a call by name": json.dumps({"probe": [1, {"failure": {"kind": "os.system"}}]}).encode(),
        "another answer": b'{"ready":true,"also":1}',
        "deep": b'{"probe":[1,{"sample":{"template":' + b"[" * 100_000,
        "no text": bytes(range(256)),
        "nothing": b"",
    }


def test_reading_the_payload_as_a_pickle_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "ran"
    for what in ("a pickle", "a pickle of protocol 0", "an answer with a pickle"):
        pickle.loads(bodies(path)[what])
        assert path.exists()
        path.unlink()


@pytest.mark.parametrize("what", bodies(Path()))
def test_a_pickle_from_the_channel_is_not_run_and_ends_the_worker(tmp_path: Path, what: str) -> None:
    path = tmp_path / "ran"
    body = bodies(path)[what]

    def taken_over(item: int) -> Any:
        import gc
        import struct

        if item == 13:
            worker = next(x for x in gc.get_objects() if type(x).__name__ == "_Worker")
            worker._channel._socket.sendall(struct.pack("<QI", len(body), 0) + body)
        return np.float32(item)

    with running(taken_over, 1) as run:
        with pytest.raises(ringfeed.WorkerCrashed, match="it sent an invalid message"):
            run.pool.probe(0, 13)
        assert run.pool.probe(0, 5).leaves == [((), "float32")]
        results, failures = run([1, 2, 3])
        assert results == {0: 1.0, 1: 2.0, 2: 3.0}
        assert not failures
    assert not path.exists()


def test_a_worker_whose_answer_is_invalid_is_not_trusted_again() -> None:
    def taken_over(item: int) -> Any:
        import gc
        import struct

        from ringfeed.workers.messages import ProbeResult, encode_message
        from ringfeed.workers.samples import sample_of

        worker = next(x for x in gc.get_objects() if type(x).__name__ == "_Worker")
        bodies = [b"none", *(encode_message(ProbeResult(number, sample_of(np.float32(0)))) for number in (1, 2))]
        worker._channel._socket.sendall(b"".join(struct.pack("<QI", len(body), 0) + body for body in bodies))
        return np.float32(item)

    with running(taken_over, 1) as run, pytest.raises(ringfeed.WorkerCrashed, match="it sent an invalid message"):
        run.pool.probe(0, 13)


def test_an_endless_answer_and_unrequested_descriptors_end_the_worker(tmp_path: Path) -> None:
    def taken_over(item: int) -> Any:
        import gc
        import os
        import socket
        import struct

        worker = next(x for x in gc.get_objects() if type(x).__name__ == "_Worker")
        channel = worker._channel._socket
        if item == 1:
            channel.sendall(struct.pack("<QI", 1 << 40, 0) + b"x" * 1000)
        if item == 2:
            body = b'{"ready":true}'
            read_end, write_end = os.pipe()
            socket.send_fds(channel, [struct.pack("<QI", len(body), 2)], [read_end, write_end])
            channel.sendall(body)
        return np.float32(item)

    with running(taken_over, 1) as run:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(ringfeed.WorkerCrashed):
            run.pool.probe(0, 1)
        assert run.pool.probe(0, 2).leaves == [((), "float32")]
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert run.pool.probe(0, 3).leaves == [((), "float32")]


@pytest.mark.parametrize("what", bodies(Path()))
def test_a_pickle_from_the_failures_ring_is_not_run(tmp_path: Path, what: str) -> None:
    path = tmp_path / "ran"
    body = bodies(path)[what][:10_000]

    def taken_over(item: int) -> Any:
        import sys

        if item == 13:
            failure_record = sys.modules["ringfeed.workers.failure_record"]
            failure_record.encode_within_slot = lambda failure: body
            raise ValueError("bad")
        return np.float32(item)

    with running(taken_over, 1) as run:
        results, failures = run([1, 13, 3])
    assert sorted(results) == [0, 2]
    (failure,) = failures
    assert type(failure) is ringfeed.PreprocessError
    assert failure.index == 1
    assert not path.exists()


def test_rows_and_failures_with_invented_tags_change_no_other_item() -> None:
    def taken_over(item: int) -> Any:
        import gc

        if item == 13:
            rows, failures = (
                next(x for x in gc.get_objects() if type(x).__name__ == "RowWriter").__dict__[name]
                for name in ("_rows", "_failures")
            )
            for tag in (0, (1 << 64) - 1, 1 << 63, (1 << 63) | (1 << 47), 12345 << 48, 99):
                for ring in (rows, failures):
                    with ring.claim() as slot:
                        slot.tag = tag
        return np.float32(item)

    with running(taken_over, 1) as run:
        results, failures = run([1, 13, 3, 4, 5])
        assert not failures
        assert results == {0: 1.0, 1: 13.0, 2: 3.0, 3: 4.0, 4: 5.0}


# ---- the memory that a worker shares with the predictor ------------------------------------------------

ATTACKS = {
    "shrink": "os.ftruncate(fd, 0)",
    "grow": "os.ftruncate(fd, 1 << 40)",
    "forbid to grow": "fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)",
    "forbid to write": "fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10)",  # F_SEAL_FUTURE_WRITE
}
MAY_GROW = "/memfd:ringfeed-items"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_worker_cannot_kill_or_block_the_model_process_through_a_shared_file(attack: str) -> None:
    body = f"""
    import numpy as np
    from predict_runs import running
    def taken_over(item):
        import fcntl, os
        done = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                if (path := os.readlink("/proc/self/fd/" + name)).startswith("/memfd:"):
                    fd = int(name)
                    {ATTACKS[attack]}
                    done += not ({attack!r} == "grow" and path.startswith({MAY_GROW!r}))
            except OSError:
                pass
        return np.full(4, done, np.int64) + item[0]
    with running(taken_over, 2, item_timeout=300.0, batch_size=4) as run:
        items = [np.zeros(3_000_000, np.uint8) for _ in range(40)]  # too large for a slot
        results, failures = run(items, batch_size=4)
        numbers = sorted({{int(row.max()) for row in results.values()}})
        print(run.pool.replace_dead(), len(failures), numbers, len(results))
    """
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(here), *sys.path])
    assert run_program(body, PYTHONPATH=path) == (0, "0 0 [0] 40\n", "")


def test_a_worker_cannot_write_its_function_and_item_files() -> None:
    def taken_over(item: int) -> Any:
        import contextlib
        import os

        written = 0
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith(
                    ("/memfd:ringfeed-function", "/memfd:ringfeed-item ")
                ):
                    written += os.pwrite(int(name), b"x" * item, 0)
        return np.int64(written)

    def keeps_its_function() -> None:
        """Keep copies of all descriptors that the worker closes from now on."""
        import os

        close = os.close
        os.close = lambda fd: (os.dup(fd), close(fd))[1]

    with running(taken_over, 1, initializer=keeps_its_function) as run:
        assert run.pool.probe(0, 1).leaves == [((), "int64")]
        assert set(run([1, 2, 3])[0].values()) == {0}
        run.pool._workers[0].process.kill()
        run.pool._workers[0].process.wait()
        assert set(run([4, 5, 6])[0].values()) == {0}  # the next worker reads the same function


@pytest.mark.parametrize(
    "make", [lambda: memory_files.create("x", 4096), lambda: memory_files.create_with("x", b"abc")]
)
def test_a_memory_file_keeps_its_size_and_its_seals(make: Any) -> None:
    descriptor = make()
    try:
        size = os.fstat(descriptor).st_size
        for length in (0, size - 1, size + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, length)
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert len(memory_files.read(descriptor)) == size
    finally:
        os.close(descriptor)


def test_a_memory_file_can_grow_after_another_process_made_it_longer() -> None:
    descriptor = memory_files.create("x")
    try:
        for size in (10, 5, 4096):
            memory_files.grow(descriptor, size)
        os.ftruncate(descriptor, 1 << 40)
        memory_files.grow(descriptor, 8192)
        assert os.fstat(descriptor).st_size == 1 << 40
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        with pytest.raises(OSError, match=r"Invalid|large"):
            memory_files.grow(descriptor, -1)
    finally:
        os.close(descriptor)


def test_answers_of_any_structure_come_back_unchanged() -> None:
    for result in (
        np.zeros((2, 3), np.uint8),
        {"a": np.zeros(3), "b": [np.zeros(1), (np.zeros(2), 5)], 7: 1.0},
        [np.zeros(0), None, "text"],
        Pair(np.zeros(3), Pair(1, 2)),
    ):
        sample = sample_of(result)
        answer = decode_message(encode_message(ProbeResult(7, sample)))
        assert answer == ProbeResult(7, sample)
        assert type(answer.result.template) is type(sample.template)
    for other in (Ready(), LoadingFailed("rings", "text"), ProbeResult(1, Failure("crashed", ""))):
        assert decode_message(encode_message(other)) == other


def test_a_named_tuple_of_a_class_that_is_not_known_here_has_its_fields() -> None:
    body = encode_message(ProbeResult(1, sample_of(Pair(np.zeros(3), 2)))).replace(b'"Pair"', b'"Gone"')
    template = decode_message(body).result.template
    assert (template.left, template.right) == (0, 1)
    assert type(template).__name__ == "Gone"


def test_mutated_answers_are_read_or_refused_and_nothing_else_happens() -> None:
    chance = random.Random(20261128)
    try:
        raise ValueError("x", np.arange(3), {"k": (1, b"2")}, object()) from KeyError(1)
    except ValueError as error:
        failure = describe_exception(error)
    sample = sample_of({"a": np.zeros((2, 3)), "b": (1, Pair(2, [3]))})
    starts = [encode_message(Ready()), encode_message(ProbeResult(3, sample)), encode_message(ProbeResult(3, failure))]
    words = [b"null", b"[]", b"{}", b"-1", b"1e999", b'""', b'"x"', b"true", b'{"int":"0x"}', b'{"tuple":[1]}', b"NaN"]
    read = 0
    for round_ in range(20_000):
        body = bytearray(starts[round_ % 3] if round_ % 2 else encode_failure(failure))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(body))
            if chance.random() < 0.5:
                body[at] = chance.randrange(256)
            else:
                body[at : at + chance.randrange(12)] = chance.choice(words)
        for read_as in (decode_message, decode_failure):
            try:
                answer = read_as(bytes(body))
            except NotPlain:
                continue
            read += 1
            found = answer.result if isinstance(answer, ProbeResult) else answer
            if isinstance(found, Failure):
                rebuild_exception(found)
                str(preprocess_error(found, 0, "item", ""))
    assert read > 100


class Pair(tuple):  # a named tuple that this module contains under its name
    __slots__ = ()
    _fields = ("left", "right")

    def __new__(cls, left: Any, right: Any) -> Pair:
        return super().__new__(cls, (left, right))

    @classmethod
    def _make(cls, values: Any) -> Pair:
        return cls(*values)
