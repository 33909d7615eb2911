"""Rings without a name between processes: their descriptor is sent or inherited; processes die."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import ringfeed
from namespaces import run_with_private_shm
from support import in_thread, is_gone, numbers, record, run_program, states, take_all, wait_until

FIELDS = {"x": ((512,), "int64")}


@pytest.fixture
def nameless():
    with ringfeed.Ring.create_nameless(FIELDS, slots=8) as ring:
        yield ring


def put_and_hold(pipe, descriptor):
    """Publish one record; take one record and claim one slot, and keep both."""
    ring = ringfeed.Ring.attach_descriptor(descriptor, "sent")
    ring.put(record(1))
    taken = ring.take(max_rows=1)
    slot = ring.claim()
    pipe.tell((ring.is_owner, numbers(taken)))
    pipe.hear()
    slot.discard()


@pytest.mark.parametrize("turn", range(5))
def test_slots_and_records_held_by_a_killed_process_come_back(nameless, start, turn):
    nameless.put(record(0))
    child = start(put_and_hold, nameless.descriptor, pass_fds=(nameless.descriptor,))
    assert child.told() == (False, [0])
    assert states(nameless) == {"free": 5, "claimed": 1, "ready": 1, "taken": 1}
    child.kill()
    assert nameless.recover() == 1
    assert sorted(take_all(nameless)) == [0, 1]
    assert states(nameless) == {"free": 8}
    assert nameless.stats()["redelivered"] == 1


def claim_everything(pipe, descriptor):
    ring = ringfeed.Ring.attach_descriptor(descriptor, "sent")
    kept = [ring.claim() for _ in range(8)]
    pipe.tell("full")
    pipe.hear()
    del kept


def test_a_waiting_producer_gets_the_slots_of_a_killed_one(nameless, start):
    child = start(claim_everything, nameless.descriptor, pass_fds=(nameless.descriptor,))
    assert child.told() == "full"
    with in_thread(nameless.put, record(3)) as put:
        child.kill()
        put.result()
    assert take_all(nameless) == [3]


def own(pipe):
    ring = ringfeed.Ring.create_nameless(FIELDS, slots=8)
    ring.put(record(5))
    pipe.tell((os.getpid(), ring.descriptor))
    pipe.hear()


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_the_end_of_the_owner_closes_the_ring_behind_its_last_record(start, how):
    child = start(own)
    pid, descriptor = child.told()
    ring = ringfeed.Ring.attach_descriptor(os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR), "theirs")
    if how == "killed":
        child.kill()
    else:
        child.tell("end")
        child.result()
    assert numbers(ring.take(max_rows=1)) == [5]
    with pytest.raises(ringfeed.RingClosed):
        ring.take(max_rows=1)
    ring.close()


def test_a_descriptor_travels_over_a_socket(nameless):
    ours, theirs = socket.socketpair()
    program = """
    import socket
    channel = socket.socket(fileno=int(sys.argv[1]))
    _, descriptors, *_ = socket.recv_fds(channel, 16, 1)
    ring = ringfeed.Ring.attach_descriptor(descriptors[0], "sent")
    ring.put({"x": np.full(512, 8)})
    ring.close()
    """
    source = "import os, sys\nimport numpy as np\nimport ringfeed\n" + "\n".join(map(str.strip, program.splitlines()))
    with theirs:
        child = subprocess.Popen([sys.executable, "-c", source, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    socket.send_fds(ours, [b"ring"], [nameless.descriptor])
    ours.close()
    assert child.wait() == 0
    assert take_all(nameless) == [8]
    nameless.put(record(1))  # the parent is still the owner
    assert nameless.is_owner


def test_a_forked_child_uses_the_ring_as_its_own_participant(nameless):
    child = os.fork()
    if child == 0:
        try:
            nameless.put(record(4))
            nameless.claim()
            os._exit(0 if not nameless.is_owner else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert is_gone(child)
    nameless.recover()
    assert take_all(nameless) == [4]
    assert states(nameless) == {"free": 8}
    assert not nameless.closed


def test_a_killed_owner_leaves_no_file_behind(start):
    child = start(own)
    pid, _ = child.told()
    assert not [name for name in os.listdir("/dev/shm") if f"-{pid}-" in name]
    child.kill()
    wait_until(lambda: is_gone(pid))
    assert not [name for name in os.listdir("/dev/shm") if f"-{pid}-" in name]


def test_a_small_shared_memory_is_no_limit():
    source = """
    print(said_by(create, "named", 8).partition(":")[0])
    with ringfeed.Ring.create_nameless({"x": ((MIB,), "uint8")}, slots=24, participants=8) as ring:
        for n in range(48):
            ring.put({"x": np.full(MIB, n, np.uint8)})
            with ring.take(1) as batch:
                assert (batch["x"] == n).all()
        print(ring.slots, os.listdir("/dev/shm"))
    """
    assert run_with_private_shm("size=4m", source) == ["NoSpace", "24 []"]


def test_an_error_says_that_no_descriptor_is_left():
    status, printed, errors = run_program("""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    kept = []
    try:
        while True:
            kept.append(ringfeed.Ring.create_nameless({"x": ((), "int64")}, slots=1))
    except ringfeed.RingFeedError as error:
        print(error)
    """)
    assert status == 0, errors
    assert "no descriptor is left: this process may have 16 open" in printed


def test_a_worker_that_takes_while_another_is_killed_loses_nothing(nameless, start):
    """Ten producers are killed one after the other at any point; each published record arrives once."""
    published = set()
    for turn in range(10):
        child = start(put_forever, nameless.descriptor, turn, pass_fds=(nameless.descriptor,))
        seen = set()
        while len(seen) < 20:
            with nameless.take(max_rows=4) as batch:
                seen.update(numbers(batch))
        child.kill()
        nameless.recover()
        seen.update(take_all(nameless))
        assert seen == set(range(turn * 1000, turn * 1000 + len(seen))), "a gap, or a record of another round"
        published |= seen
        assert states(nameless) == {"free": 8}
    assert len(published) >= 200


def put_forever(pipe, descriptor, turn):
    ring = ringfeed.Ring.attach_descriptor(descriptor, "sent")
    for number in range(1000):
        ring.put({"x": np.full(512, turn * 1000 + number)})
    pipe.hear()
