"""Which participants count as alive: waits at an owner's death, several handles, PID namespaces, forks."""

import gc
import os
import subprocess
import sys

import pytest

import ringfeed
from namespaces import PID_NAMESPACE, require_pid_namespaces
from support import (
    in_thread,
    is_gone,
    numbers,
    record,
    segments,
    states,
    take_all,
    wait_until,
    wait_until_waited,
)

FIELDS = {"x": ((512,), "int64")}


# ---- The owner's death or close during waits ---------------------------------------------------------


def own(pipe, name, full):
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    for n in range(8 if full else 0):
        ring.put(record(n))
    pipe.tell("created")
    pipe.hear()
    ring.close()
    pipe.tell("closed")
    pipe.hear()
    ring.unlink()


def wait_for(pipe, name, what):
    ring = ringfeed.Ring.attach(name)
    try:
        if what == "put":
            ring.put(record(1))
        elif what == "claim":
            ring.claim(rows=2)
        elif what == "take":
            ring.take(max_rows=8, min_rows=2)
        else:
            for _ in ring.batches(max_rows=1):
                pass
    except ringfeed.RingClosed as error:
        return "closed" if "its owner closed it or died" in str(error) else str(error)


@pytest.mark.parametrize("end", ["killed", "closed"])
@pytest.mark.parametrize("waits", [("put", "claim"), ("take", "batches")])
def test_processes_and_threads_that_wait_learn_that_the_owner_is_gone(ring_name, start, end, waits):
    what = "take" if "take" in waits else "claim"
    owner = start(own, ring_name, what == "claim")
    owner.told()
    ring = ringfeed.Ring.attach(ring_name)
    # One after the other, so that the test sees each of them wait.
    others = []
    for way in waits:
        others.append(start(wait_for, ring_name, way))
        wait_until(lambda: ring.stats()["participants"] == 2 + len(others))
        wait_until_waited(ring, what)
    with in_thread(getattr(ring, what), 1) as waiting:
        wait_until_waited(ring, what)
        if end == "killed":
            owner.kill()
        else:
            owner.tell("close")
            owner.told()
        assert [child.result() for child in others] == ["closed", "closed"]
        with pytest.raises(ringfeed.RingClosed):
            waiting.result()
    assert take_all_until_closed(ring) == (list(range(8)) if what == "claim" else [])
    ring.close()
    if end == "closed":
        owner.tell("unlink")
        owner.result()
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8) as new:
        new.put(record(3))
        assert take_all(new) == [3]
    assert ring_name not in segments()


def take_all_until_closed(ring):
    found = []
    while True:
        try:
            with ring.take(max_rows=8) as batch:
                found += numbers(batch)
        except ringfeed.RingClosed:
            return found


def test_closing_one_handle_wakes_its_own_waits_alone(ring, start):
    child = start(wait_for, ring.name, "take")
    wait_until_waited(ring, "take")
    other = ringfeed.Ring.attach(ring.name)
    with in_thread(other.take, 1) as first, in_thread(other.take, 2) as second:
        wait_until_waited(ring, "take")
        other.close()
        for waiting in (first, second):
            with pytest.raises(ringfeed.RingClosed):
                waiting.result()
    ring.put(record(1))
    ring.put(record(2))
    assert child.result() is None


# ---- Several handles in one process ------------------------------------------------------------------


def hold_by_several_handles(pipe, name):
    rings = [ringfeed.Ring.attach(name) for _ in range(4)]
    held = [rings[0].claim(2), rings[1].take(max_rows=1), rings[2].claim()]
    pipe.tell(rings[0].stats()["participants"])
    rings.pop().close()
    gc.collect()
    pipe.tell("closed one")
    pipe.hear()
    held.pop(0).discard()
    rings.pop(0).close()
    gc.collect()
    pipe.tell("closed another one")
    pipe.hear()
    return held


def test_a_process_that_attached_several_times_lives_with_each_and_dies_with_all(ring, start):
    ring.put(record(5))
    child = start(hold_by_several_handles, ring.name)
    assert child.told() == 5
    child.told()
    assert ring.recover() == 0
    assert ring.stats()["participants"] == 4
    assert states(ring) == {"free": 4, "claimed": 3, "taken": 1}
    child.tell("go on")
    child.told()
    assert ring.recover() == 0
    assert states(ring) == {"free": 6, "claimed": 1, "taken": 1}
    child.kill()
    assert ring.recover() == 2
    assert ring.stats()["participants"] == 1
    assert states(ring) == {"free": 7, "ready": 1}
    assert (ring.stats()["reclaimed"], ring.stats()["redelivered"]) == (1, 1)
    assert take_all(ring) == [5]


# ---- PID namespaces ----------------------------------------------------------------------------------


def in_a_pid_namespace(source, *arguments):
    """Run a program as process 1 of a new PID namespace."""
    require_pid_namespaces()
    command = [*PID_NAMESPACE, sys.executable, "-c", source, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


HOLD = """
import os, sys
import ringfeed
name = sys.argv[1]
assert os.getpid() == 1, "in the same namespace"
ring = ringfeed.Ring.attach(name)
claim = ring.claim(3)
print(ring.recover(), ring.stats()["participants"], flush=True)
sys.stdin.readline()
{end}
"""


@pytest.mark.parametrize("end", ["claim.publish()", "os._exit(0)"])
def test_processes_of_two_pid_namespaces_see_each_other_alive(ring, end):
    require_pid_namespaces()
    command = [*PID_NAMESPACE, sys.executable, "-c", HOLD.format(end=end), ring.name]
    other = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert other.stdout.readline() == "0 2\n"
    assert ring.recover() == 0
    assert states(ring) == {"free": 5, "claimed": 3}
    other.communicate("go on\n")
    assert other.returncode == 0
    ring.recover()
    assert states(ring) == ({"free": 8} if "exit" in end else {"free": 5, "ready": 3})
    assert ring.stats()["participants"] == 1


REUSE = """
import os, signal, sys, time
import ringfeed
name = sys.argv[1]

def start():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ring = ringfeed.Ring.attach(name)
        claim = ring.claim(2)
        os.write(writing, b"claimed")
        signal.pause()
    os.read(reading, 7)
    return child

# The kernel tells in such ticks when a process has started: no process id comes again within one.
def tick():
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))

first = start()
started = tick()
while tick() <= started + 1:
    pass
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
try:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(first - 1))
except OSError as error:
    print("may not choose a process id:", error)
    sys.exit()
second = start()
ring = ringfeed.Ring.attach(name)
claimed, living = ring.stats()["claimed"], ring.recover()
print(second - first, claimed, living, ring.stats()["claimed"], ring.stats()["reclaimed"])
os.kill(second, signal.SIGKILL)
os.waitpid(second, 0)
print(ring.recover(), ring.stats()["claimed"])
"""


def test_a_dead_process_is_not_alive_in_another_one_that_has_its_process_id(ring):
    done = in_a_pid_namespace(REUSE, ring.name)
    if "may not choose" in done.stdout:
        pytest.skip(done.stdout)
    # The slots of the first process came back; those of the second process, with the same id, did not.
    assert (done.stdout, done.stderr) == ("0 4 1 2 2\n1 0\n", "")
    assert states(ring) == {"free": 8}


# ---- Forks -------------------------------------------------------------------------------------------


def parent_and_child_go_on(pipe, name):
    """Parent and child put and take side by side; either may die or close without harm to the other."""
    ring = ringfeed.Ring.attach(name)
    claim = ring.claim()
    claim["x"][...] = 1
    child = os.fork()
    if child == 0:
        for n in range(50):
            ring.put(record(100 + n), timeout=None)
        pipe.tell(("child", os.getpid()))
        pipe.hear()
        os._exit(0)
    for n in range(50):
        ring.put(record(200 + n), timeout=None)
    claim.publish()
    pipe.tell(("parent", os.getpid()))
    pipe.hear()


@pytest.mark.parametrize("dies", ["parent", "child"])
def test_after_a_fork_both_go_on_and_each_may_die_alone(ring, start, dies):
    process = start(parent_and_child_go_on, ring.name)
    found = []
    while len(found) < 101:
        with ring.take(max_rows=8) as batch:
            found += numbers(batch)
    assert [n for n in found if 100 <= n < 200] == list(range(100, 150))
    assert [n for n in found if n >= 200] == list(range(200, 250))
    assert found.count(1) == 1
    pids = dict(process.told() for _ in range(2))
    assert ring.recover() == 0
    assert ring.stats()["participants"] == 3
    os.kill(pids[dies], 9)
    wait_until(lambda: is_gone(pids[dies]))
    assert ring.recover() == 1
    assert ring.stats()["participants"] == 2
    left = pids["child" if dies == "parent" else "parent"]
    os.kill(left, 9)
    wait_until(lambda: is_gone(left))
    ring.recover()
    assert ring.stats()["participants"] == 1
    assert states(ring) == {"free": 8}
