"""Rings served at a Unix socket: attached by a path, sealed, and given only to users whom the kernel identifies."""

import copy
import fcntl
import gc
import json
import os
import pickle
import shutil
import signal
import socket
import stat
import tempfile
import threading
from pathlib import Path

import pytest

import ringfeed
from support import in_thread, record, segment_path, segments, take_all, wait_until

FIELDS = {"x": ((512,), "int64")}
OTHER, SQUATTER = 54321, 65534
GROUP = 54000
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")


@pytest.fixture
def folder():
    """A folder with a short name that every user may read."""
    made = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def path(folder):
    return folder / "ring"


@pytest.fixture
def nameless():
    with ringfeed.Ring.create_nameless(FIELDS, slots=8, name="served") as ring:
        yield ring


def put_at(pipe, path, number, user=None, group=None):
    if user is not None:
        os.setgroups([] if group is None else [group])
        os.setgid(user)
        os.setuid(user)
    try:
        ring = ringfeed.Ring.attach(path, timeout=10, group=group)
    except ringfeed.RingFeedError as error:
        return f"{type(error).__name__}: {error}"
    ring.put(record(number))
    ring.close()
    return ring.name


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


# ---- Serving and attaching ---------------------------------------------------------------------------


def test_a_nameless_ring_is_attached_by_the_path_at_which_it_is_served(nameless, path, start):
    with nameless.serve(path) as server:
        assert server.path == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [start(put_at, given, 3).result() for given in (path, str(path))] == ["served"] * 2
        assert take_all(nameless) == [3, 3]
    assert server.closed
    assert not path.exists()
    with pytest.raises(ringfeed.RingNotFound, match=rf"socket '{path}': no process serves a ring there.*Ring.serve"):
        ringfeed.Ring.attach(path)


def test_server_and_client_wait_for_each_other_in_either_order(nameless, path):
    with in_thread(ringfeed.Ring.attach, path, timeout=None) as attaching, nameless.serve(path):
        attaching.result().put(record(5))
        assert take_all(nameless) == [5]


def test_received_memory_is_sealed_and_no_process_can_truncate_it(nameless, path):
    with nameless.serve(path):
        other = ringfeed.Ring.attach(path)
    assert other.is_nameless
    for ring in (nameless, other):
        with pytest.raises(PermissionError):
            os.ftruncate(ring.descriptor, 0)
    assert fcntl.fcntl(other.descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    other.close()


def test_a_named_ring_is_served_too_with_all_its_levels(ring_name, path):
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8, priorities=3) as ring, ring.serve(path):
        other = ringfeed.Ring.attach(path)
        assert (other.name, [level.name for level in other.levels]) == (
            ring_name,
            [level.name for level in ring.levels],
        )
        other.levels[2].put(record(9))
        assert take_all(ring.levels[2]) == [9]
        other.close()


def test_a_served_ring_travels_to_another_process_as_the_path(nameless, path, start):
    def put(pipe, ring):
        ring.put(record(8))
        ring.close()

    with nameless.serve(path):
        other = ringfeed.Ring.attach(path)
        for ring in (nameless, other, pickle.loads(pickle.dumps(nameless)), copy.copy(other)):
            start(put, ring).result()
    assert take_all(nameless) == [8] * 4
    with pytest.raises(TypeError, match=r"Ring\.serve"):
        pickle.dumps(nameless)
    other.close()


def test_serving_ends_with_the_ring(path):
    for end in ("close", "forget", "with"):
        ring = ringfeed.Ring.create_nameless(FIELDS, slots=8)
        server = ring.serve(path)
        if end == "close":
            ring.close()
        elif end == "with":
            with ring:
                pass
        del ring
        gc.collect()
        assert not path.exists(), end
        assert server.closed, end
        del server


def attach_again_and_again(pipe, path):
    ringfeed.Ring.attach(path).close()
    before = descriptors()
    for _ in range(20):
        ringfeed.Ring.attach(path).close()
        gc.collect()
    return before == descriptors()


def test_serving_and_attaching_again_and_again_leaves_no_descriptor_and_no_thread(nameless, path, start):
    before, threads = descriptors(), threading.active_count()
    for _ in range(20):
        with nameless.serve(path), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            assert connection.recv(4096)
    wait_until(lambda: (descriptors(), threading.active_count()) == (before, threads))
    with nameless.serve(path):
        assert start(attach_again_and_again, path).result()


def test_many_processes_attach_at_once(nameless, path, start):
    with nameless.serve(path):
        children = [start(put_at, path, number) for number in range(6)]
        assert {child.result() for child in children} == {"served"}
    assert sorted(take_all(nameless)) == list(range(6))


def serve_and_wait(pipe, path):
    ring = ringfeed.Ring.create_nameless(FIELDS, slots=8)
    ring.serve(path)
    pipe.tell("serving")
    pipe.hear()


def test_the_socket_of_a_killed_process_is_detected_as_unserved_and_replaced(nameless, path, start):
    child = start(serve_and_wait, path)
    child.told()
    with pytest.raises(ringfeed.RingExists, match="another process serves there"):
        nameless.serve(path)
    child.kill()
    assert path.exists()
    with pytest.raises(ringfeed.RingNotFound, match="no process serves a ring there"):
        ringfeed.Ring.attach(path)
    with nameless.serve(path):
        ringfeed.Ring.attach(path).close()


def test_the_server_of_a_process_that_ends_removes_its_socket(path, start):
    child = start(serve_and_wait, path)
    child.told()
    child.tell("end")
    child.result()
    assert not path.exists()


def test_a_forked_child_serves_no_ring_and_removes_no_socket(nameless, path):
    server = nameless.serve(path)
    child = os.fork()
    if child == 0:
        server.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ringfeed.Ring.attach(path).close()
    server.close()
    assert not path.exists()


def test_a_file_or_directory_at_the_path_is_not_replaced(nameless, path):
    path.write_text("mine")
    with pytest.raises(ringfeed.RingExists, match=rf"socket '{path}': a file of user .* exists there"):
        nameless.serve(path)
    assert path.read_text() == "mine"
    with pytest.raises(ringfeed.RingNotFound):
        ringfeed.Ring.attach(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ringfeed.RingExists, match="a directory of user"):
        nameless.serve(path)
    with pytest.raises(ringfeed.RingNotFound):
        ringfeed.Ring.attach(path)


@pytest.mark.parametrize("wrong", ["/" + "x" * 108, "/x\0y"])
def test_an_argument_that_is_not_a_socket_path_is_refused(nameless, wrong):
    for call in (nameless.serve, ringfeed.Ring.attach):
        with pytest.raises(ValueError, match="the path of a socket has 1 to 107 bytes"):
            call(wrong)


def test_a_ring_is_served_once_at_a_time_and_only_while_it_is_open(nameless, path, folder):
    server = nameless.serve(path)
    with pytest.raises(ringfeed.RingFeedError, match="is served at"):
        nameless.serve(folder / "other")
    server.close()
    server.close()
    with pytest.raises(ringfeed.RingFeedError, match=r"cannot be created there \(No such file"):
        nameless.serve(folder / "none" / "other")
    nameless.serve(path).close()
    nameless.close()
    with pytest.raises(ringfeed.RingClosed, match="'served' is closed"):
        nameless.serve(path)


# ---- Descriptors that belong to no ring, or are unsafe to map ----------------------------------------


def unsealed_copy(ring, seals):
    descriptor = os.memfd_create("copy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, os.pread(ring.descriptor, ring.segment_bytes, 0))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL])
def test_memory_that_its_sender_could_truncate_is_refused(nameless, seals):
    with pytest.raises(ringfeed.AccessRefused, match=r"ring 'sent': its memory is not sealed.*F_SEAL_SHRINK"):
        ringfeed.Ring.attach_descriptor(unsealed_copy(nameless, seals), "sent")


def test_a_descriptor_that_cannot_be_written_is_refused_with_the_reason(nameless, ring):
    for path in (f"/proc/self/fd/{nameless.descriptor}", segment_path(ring.name)):
        with pytest.raises(ringfeed.AccessRefused, match=r"descriptor is read-only, and a taker writes into"):
            ringfeed.Ring.attach_descriptor(os.open(path, os.O_RDONLY), "sent")


def test_a_descriptor_that_is_not_a_file_is_refused():
    for make in (lambda: os.pipe()[1], lambda: os.open("/dev/null", os.O_RDWR), lambda: socket.socket().detach()):
        with pytest.raises(ringfeed.AccessRefused, match=r"ring 'sent': a .* a segment is a file"):
            ringfeed.Ring.attach_descriptor(make(), "sent")


ANSWERS = {
    "nothing": (b"", 0),
    "no message of ours": (b"hello, world", 1),
    "no descriptor": (json.dumps({"ringfeed": 1, "name": "x", "group": None}).encode(), 0),
    "another version": (json.dumps({"ringfeed": 2, "name": "x", "group": None}).encode(), 1),
    "no name": (json.dumps({"ringfeed": 1, "name": None, "group": None}).encode(), 1),
    "a path as name": (json.dumps({"ringfeed": 1, "name": "../x", "group": None}).encode(), 1),
    "a list": (b"[1, 2]", 1),
    "a group of words": (json.dumps({"ringfeed": 1, "name": "x", "group": "root"}).encode(), 1),
    "too many descriptors": (json.dumps({"ringfeed": 1, "name": "x", "group": None}).encode(), 40),
    "no ring": (json.dumps({"ringfeed": 1, "name": "x", "group": None}).encode(), 1),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_after_any_wrong_answer_of_a_server_attaching_raises_and_leaves_no_descriptor(path, answer):
    text, count = ANSWERS[answer]
    with socket.socket(socket.AF_UNIX) as listener, open("/dev/null") as file:
        listener.bind(str(path))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                if text:
                    socket.send_fds(connection, [text], [file.fileno()] * count)

        before = descriptors()
        with in_thread(serve), pytest.raises((ringfeed.RingFeedError, ValueError)):
            ringfeed.Ring.attach(path)
        wait_until(lambda: descriptors() == before)


def test_a_silent_or_vanished_client_does_not_block_another_client(nameless, path):
    with nameless.serve(path):
        idle = []
        for _ in range(50):
            idle.append(socket.socket(socket.AF_UNIX))
            idle[-1].connect(str(path))
            socket.socket(socket.AF_UNIX).connect(str(path))
        ringfeed.Ring.attach(path).close()
        for each in idle:
            each.close()


# ---- Other users -------------------------------------------------------------------------------------


@as_root
def test_another_user_gets_no_ring_with_any_mode_of_the_socket(nameless, path, start):
    with nameless.serve(path):
        assert "AccessRefused" in start(put_at, path, 1, OTHER).result()
        path.chmod(0o666)
        said = start(put_at, path, 1, OTHER).result()
        assert said.startswith(
            f"AccessRefused: socket '{path}': user 0 (root) serves there; this process is user {OTHER}"
        )
        said = start(put_at, path, 1, OTHER, GROUP).result()
        assert f"its process refuses user {OTHER}" in said
    assert take_all(nameless) == []


def serve_as(pipe, path, user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    ring = ringfeed.Ring.create_nameless(FIELDS, slots=8)
    with ring.serve(path):
        os.chmod(path, 0o666)
        pipe.tell("serving")
        pipe.hear()


@as_root
@pytest.mark.parametrize("victim", [None, OTHER])
def test_a_ring_that_another_user_serves_is_not_taken(folder, path, start, victim):
    folder.chmod(0o777)
    child = start(serve_as, path, SQUATTER)
    child.told()
    said = start(put_at, path, 1, victim).result()
    assert said.startswith(f"AccessRefused: socket '{path}': user {SQUATTER}")
    child.tell("end")
    child.result()


@as_root
def test_only_members_of_the_group_attach_at_the_path(path, start):
    with ringfeed.Ring.create_nameless(FIELDS, slots=8, name="shared", group=GROUP) as ring, ring.serve(path):
        status = path.stat()
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (GROUP, 0o660)
        assert start(put_at, path, 6, OTHER, GROUP).result() == "shared"
        assert "cannot be opened by user" in start(put_at, path, 6, OTHER).result()
        with pytest.raises(ringfeed.AccessRefused, match="is shared with group 54000, and group None was requested"):
            ringfeed.Ring.attach(path)
        assert take_all(ring) == [6]
    assert not [name for name in segments() if "shared" in name]


def test_a_stopped_server_is_an_error_after_a_timeout(path, start, monkeypatch):
    child = start(serve_and_wait, path)
    child.told()
    child.stop()
    monkeypatch.setattr("ringfeed.sharing.server._ANSWER_SECONDS", 0.2)
    with pytest.raises(ringfeed.RingNotFound, match="listens there and does not answer"):
        ringfeed.Ring.attach(path)
    child.signal(signal.SIGCONT)
    ringfeed.Ring.attach(path, timeout=1).close()
    child.tell("end")
    child.result()
