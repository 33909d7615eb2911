"""Other code of a process closes descriptors of the segment: liveness detection still sees the process correctly."""

import contextlib
import filecmp
import hashlib
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys

import pytest

import ringfeed
from support import numbers, record, segment_path, states, take_all, wait_until

FIELDS = {"x": ((512,), "int64")}


def everything_but(keep):
    os.closerange(3, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def copy_of_the_descriptor(ring, path, keep, folder):
    os.close(os.dup(ring.descriptor))


def inheritable_copy(ring, path, keep, folder):
    subprocess.run(["true"], pass_fds=[ring.descriptor], check=True)


def mapping(ring, path, keep, folder):
    mmap.mmap(ring.descriptor, 4096).close()


def with_open(ring, path, keep, folder):
    with open(path, "rb") as file:
        file.read(16)


def file_object_over_the_descriptor(ring, path, keep, folder):
    with os.fdopen(ring.descriptor, "rb", closefd=True) as file:
        file.read(1)


def backup(ring, path, keep, folder):
    shutil.copy(path, folder / "copy")


def checksum(ring, path, keep, folder):
    hashlib.sha256(path.read_bytes()).hexdigest()


def comparison(ring, path, keep, folder):
    filecmp.cmp(path, path, shallow=False)


def sent_to_oneself(ring, path, keep, folder):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [ring.descriptor])
        os.close(socket.recv_fds(theirs, 1, 1)[1][0])


def received_as_a_ring(ring, path, keep, folder):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ring.send(ours)
        ringfeed.Ring.receive(theirs).close()


def another_handle(ring, path, keep, folder):
    ringfeed.Ring.attach(ring.name).close()


def looks_of_the_inventory(ring, path, keep, folder):
    ringfeed.list_segments(ring.name)
    ringfeed.clean(ring.name)


def the_descriptor_itself(ring, path, keep, folder):
    os.close(ring.descriptor)


def a_whole_range(ring, path, keep, folder):
    everything_but(keep)


def a_daemon_with_a_log(ring, path, keep, folder):
    everything_but(keep)
    logs = [os.open(folder / f"log{n}", os.O_CREAT | os.O_RDWR) for n in range(8)]
    ring.stats()
    for log in logs:
        os.write(log, b"still mine")


def spawned_worker(ring, path, keep, folder):
    process = multiprocessing.get_context("spawn").Process(target=print, args=(ring,))
    sys.stdout.flush()
    process.start()
    process.join()


def forked_child_that_stays(ring, path, keep, folder):
    if os.fork() == 0:
        with contextlib.suppress(BaseException):
            everything_but(keep)
            while True:
                signal.pause()
        os._exit(0)


def fork_that_ends(ring, path, keep, folder):
    if os.fork() == 0:
        os._exit(0)
    os.wait()


CLOSINGS = [
    copy_of_the_descriptor,
    inheritable_copy,
    mapping,
    with_open,
    file_object_over_the_descriptor,
    backup,
    checksum,
    comparison,
    sent_to_oneself,
    received_as_a_ring,
    another_handle,
    looks_of_the_inventory,
    the_descriptor_itself,
    a_whole_range,
    a_daemon_with_a_log,
    spawned_worker,
    fork_that_ends,
    forked_child_that_stays,
]


def claim_and_close(pipe, name, closing, folder):
    ring = ringfeed.Ring.attach(name)
    claims = [ring.claim() for _ in range(8)]
    for claim in claims:
        claim["x"] = 7
    closing(ring, segment_path(name), pipe._connection.fileno(), folder)
    pipe.tell("closed")
    pipe.hear()
    for claim in claims:
        claim.publish()
    with contextlib.suppress(ringfeed.RingFull):
        ring.put(record(1), timeout=0)
    ring.close()


@pytest.fixture
def grandchildren():
    """Kill the orphans that a child left behind; they are not children of the test's own process."""
    yield
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry)
            if os.getpgid(pid) == os.getpgid(0) and os.getppid() != pid and pid != os.getpid():
                with open(f"/proc/{pid}/stat") as stat:
                    orphan = stat.read().rpartition(")")[2].split()[1] == "1"
                with open(f"/proc/{pid}/cmdline") as line:
                    ours = "support._run_child" in line.read()
                if orphan and ours:
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("closing", CLOSINGS, ids=lambda closing: closing.__name__)
def test_a_process_that_closes_a_descriptor_keeps_its_claims_and_publishes_them_whole(
    ring, start, closing, tmp_path, grandchildren
):
    child = start(claim_and_close, ring.name, closing, tmp_path)
    assert child.told() == "closed"
    assert ring.recover() == 0
    assert states(ring) == {"claimed": 8}
    with pytest.raises(ringfeed.RingFull):
        ring.claim(timeout=0.15)  # three time slices, each with a search for dead processes
    child.tell()
    child.result()
    assert take_all(ring) == [7] * 8


@pytest.mark.parametrize("closing", CLOSINGS, ids=lambda closing: closing.__name__)
def test_a_process_killed_after_closing_a_descriptor_gives_its_claims_back(
    ring, start, closing, tmp_path, grandchildren
):
    child = start(claim_and_close, ring.name, closing, tmp_path)
    assert child.told() == "closed"
    child.kill()
    ring.put(record(3))
    assert take_all(ring) == [3]
    assert states(ring) == {"free": 8}


def own_and_close(pipe, name, closing, folder):
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    closing(ring, segment_path(name), pipe._connection.fileno(), folder)
    pipe.tell("closed")
    pipe.hear()
    ring.close()
    ring.unlink()


@pytest.mark.parametrize("closing", [with_open, the_descriptor_itself, a_whole_range, a_daemon_with_a_log])
def test_an_owner_that_closes_a_descriptor_owns_its_ring_and_removes_it(ring_name, start, closing, tmp_path):
    child = start(own_and_close, ring_name, closing, tmp_path)
    assert child.told() == "closed"
    (info,) = ringfeed.list_segments(ring_name)
    assert info.owner_alive
    assert ringfeed.clean(ring_name) == []
    with pytest.raises(ringfeed.RingExists):
        ringfeed.Ring.create(ring_name, FIELDS)
    ring = ringfeed.Ring.attach(ring_name)
    ring.put(record(1))
    child.tell()
    child.result()
    assert not segment_path(ring_name).exists()
    assert numbers(ring.take(max_rows=1)) == [1]
    ring.close()


def claim_nameless(pipe, descriptor, closing, folder):
    ring = ringfeed.Ring.attach_descriptor(descriptor, "sent")
    claims = [ring.claim() for _ in range(8)]
    for claim in claims:
        claim["x"] = 7
    closing(ring, None, pipe._connection.fileno(), folder)
    pipe.tell("closed")
    pipe.hear()
    for claim in claims:
        claim.publish()


@pytest.mark.parametrize(
    "closing",
    [copy_of_the_descriptor, mapping, sent_to_oneself, the_descriptor_itself, a_whole_range, a_daemon_with_a_log],
)
@pytest.mark.parametrize("killed", [False, True])
def test_a_nameless_ring_also_loses_no_participant(start, closing, killed, tmp_path):
    with ringfeed.Ring.create_nameless(FIELDS, slots=8) as ring:
        child = start(claim_nameless, ring.descriptor, closing, tmp_path, pass_fds=(ring.descriptor,))
        assert child.told() == "closed"
        with pytest.raises(ringfeed.RingFull):
            ring.claim(timeout=0.15)
        if killed:
            child.kill()
            ring.claim().discard()
            wait_until(lambda: states(ring) == {"free": 8})
        else:
            child.tell()
            child.result()
            assert take_all(ring) == [7] * 8


def work_without_descriptors(pipe, name):
    ring = ringfeed.Ring.attach(name)
    everything_but(pipe._connection.fileno())
    for _ in range(20):
        ring.put(record(5))
        ring.take(max_rows=1).release()
    pipe.tell("worked")
    pipe.hear()
    with ring.claim() as claim:  # a slot of the process that is killed meanwhile
        claim["x"] = 9
    return ring.descriptor > 2


def test_a_process_that_has_closed_every_descriptor_continues_and_reaps_others(ring, start):
    child = start(work_without_descriptors, ring.name)
    assert child.told() == "worked"
    victim = start(claim_and_close, ring.name, copy_of_the_descriptor, None)
    assert victim.told() == "closed"
    victim.kill()
    child.tell()
    assert child.result() is True
    assert take_all(ring) == [9]


def test_a_descriptor_that_was_closed_is_opened_anew(ring):
    before = ring.descriptor
    os.close(before)
    assert os.fstat(ring.descriptor).st_ino == segment_path(ring.name).stat().st_ino
    ring.put(record(2))
    assert take_all(ring) == [2]
