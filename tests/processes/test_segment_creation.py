"""Creating segments: unfinished segments, races for a name, the owner's exit, and too little space."""

import os
import subprocess
import sys

import pytest

import ringfeed
from namespaces import run_in_mount_namespace
from ringfeed import segment
from support import record, run_program, segment_path, segments, take_all, wait_until

FIELDS = {"x": ((512,), "int64")}


# ---- Creators ----------------------------------------------------------------------------------------


def create(pipe, name):
    pipe.tell("ready")
    pipe.hear()
    try:
        ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    except ringfeed.RingExists:
        pipe.tell("refused")
        return
    ring.put(record(os.getpid()))
    pipe.tell("created")
    pipe.hear()
    assert take_all(ringfeed.Ring.attach(name)) == [os.getpid()]
    ring.close()
    ring.unlink()


def own_and_die(pipe, name):
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    ring.put(record(1))
    pipe.tell("created")
    pipe.hear()


@pytest.mark.parametrize("left_behind", ["nothing", "a dead owner's ring", "an empty segment"])
def test_of_several_creators_of_one_name_one_makes_the_ring(ring_name, start, left_behind):
    if left_behind == "a dead owner's ring":
        child = start(own_and_die, ring_name)
        child.told()
        child.kill()
    elif left_behind == "an empty segment":
        segment_path(ring_name).touch(mode=0o600)
    children = [start(create, ring_name) for _ in range(4)]
    for child in children:
        child.told()
    for child in children:
        child.tell("go")
    said = [child.told() for child in children]
    assert sorted(said) == ["created", "refused", "refused", "refused"]
    for child, word in zip(children, said, strict=True):
        if word == "created":
            child.tell("end")
        child.result()
    assert ring_name not in segments()


def create_until_told(pipe, name):
    pipe.tell("ready")
    while not pipe.is_told():
        with ringfeed.Ring.create(name, FIELDS, slots=16) as ring:
            ring.finish()


def test_a_reader_never_sees_a_half_made_ring(ring_name, start):
    child = start(create_until_told, ring_name)
    child.told()
    seen = 0
    while seen < 100:
        try:
            ring = ringfeed.Ring.attach(ring_name)
        except (ringfeed.RingNotFound, ringfeed.RingClosed):
            if child.process.poll() is not None:
                child.result()  # raises if the child failed
            continue
        assert ring.slots == 16
        assert ring.spec["x"].shape == (512,)
        assert ring.stats()["published"] == 0
        ring.close()
        seen += 1
    child.tell("enough")
    child.result()


def test_a_creator_that_died_half_way_blocks_no_other(ring_name):
    segment_path(ring_name).touch(mode=0o600)  # the state between the first and the second step of `create`
    with pytest.raises(ringfeed.RingNotFound, match="was never initialized: its creator died during creation"):
        ringfeed.Ring.attach(ring_name)
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:
        ringfeed.Ring.attach(ring_name).put(record(1))
        assert take_all(ring) == [1]


def stop_half_way(pipe, name):
    """Stop between the steps of `create`, as the scheduler may do at any time."""
    open_new = segment.open_new

    def open_and_stop(name):
        descriptor = open_new(name)
        pipe.tell("half made")
        pipe.hear()
        return descriptor

    segment.open_new = open_and_stop
    try:
        ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    except ringfeed.RingExists as error:
        return str(error)
    pipe.tell("made")
    pipe.hear()
    ring.close()
    ring.unlink()


def test_attaching_waits_for_a_ring_that_is_half_made(ring_name, start):
    child = start(stop_half_way, ring_name)
    child.told()
    waiting = start(attach, ring_name)
    waiting.told()
    child.tell("go on")
    assert child.told() == "made"
    assert waiting.result() == 8
    child.tell("end")
    child.result()


def test_a_creator_that_comes_back_late_does_not_pass_for_the_owner(ring_name, start):
    late = start(stop_half_way, ring_name)
    assert late.told() == "half made"
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:  # after a while it replaces the segment that looks dead
        late.tell("go on")
        assert "exists and its owner is alive" in late.result()
        ringfeed.Ring.attach(ring_name).put(record(1))
        assert take_all(ring) == [1]


def attach(pipe, name):
    pipe.tell("attaching")
    return ringfeed.Ring.attach(name).slots


# ---- The owner's exit --------------------------------------------------------------------------------

CREATE = 'ring = ringfeed.Ring.create({name!r}, {{"x": ((512,), "int64")}}, slots=8)\n'
VIEWS = """
for _ in range(4):
    ring.put({"x": np.zeros(512, np.int64)})
batch, claim, other = ring.take(max_rows=2), ring.claim(), ringfeed.Ring.attach(ring.name)
kept = [batch["x"], claim["x"][1:], memoryview(batch["x"]), batch.__dlpack__(), np.from_dlpack(claim)]
kept.append(other.take(1)["x"])
kept.append(kept)
generator = ring.batches(max_rows=1)
kept_by_the_generator = next(generator)
class Outlives:
    rows = batch["x"]
    def __del__(self): self.rows[...] = 3
outlives = Outlives()
sys.modules["outlives"] = outlives
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("del ring", 0),
        ("ring.close()", 0),
        ("raise SystemExit", 0),
        ("ring.close(); del ring", 0),
    ],
)
@pytest.mark.parametrize("views", ["", VIEWS], ids=["no views", "live views"])
def test_an_owner_that_ends_without_closing_leaves_no_segment_and_no_complaint(ring_name, views, end, status):
    assert run_program(CREATE.format(name=ring_name) + views + end) == (status, "", "")
    assert ring_name not in segments()


def test_an_owner_that_ends_by_an_exception_leaves_no_segment(ring_name):
    status, _, complaint = run_program(CREATE.format(name=ring_name) + VIEWS + "1 / 0")
    assert status == 1
    assert complaint.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert ring_name not in segments()


def test_an_owner_that_is_torn_down_leaves_a_segment_that_the_next_one_replaces(ring_name):
    assert run_program(CREATE.format(name=ring_name) + VIEWS + "os._exit(5)") == (5, "", "")
    assert ring_name in segments()
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:
        assert ring.stats()["published"] == 0


def test_a_participant_that_ends_leaves_the_ring_alone(ring):
    assert run_program(f"ring = ringfeed.Ring.attach({ring.name!r})\n" + VIEWS) == (0, "", "")
    assert ring.name in segments()
    assert not ring.closed
    ring.recover()
    assert ring.stats()["participants"] == 1


# ---- multiprocessing ---------------------------------------------------------------------------------

SPAWNED = """
import multiprocessing, os, sys
from multiprocessing import resource_tracker
import numpy as np
import ringfeed

def work(ring, number):
    assert not ring.is_owner
    with ring.claim() as slot:
        slot["x"] = number

def rows(ring):
    return sorted(number for batch in ring.batches(8) for number in batch["x"][:, 0].tolist())

if __name__ == "__main__":
    method, name = sys.argv[1:]
    known = []
    register = resource_tracker._resource_tracker.register
    resource_tracker._resource_tracker.register = lambda *what: (known.append(what), register(*what))
    context = multiprocessing.get_context(method)
    with ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=8) as ring:
        workers = [context.Process(target=work, args=(ring, n)) for n in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        assert os.path.exists(f"/dev/shm/ringfeed.{name}"), "removed by a worker's end"
        ring.finish()
        assert rows(ring) == [0, 1, 2]
    assert not [what for what in known if "ringfeed" in str(what)], known
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_ring_goes_to_a_multiprocessing_worker_as_its_name_and_no_tracker_knows_it(ring_name, tmp_path, method):
    (tmp_path / "program.py").write_text(SPAWNED)
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "ignore::DeprecationWarning",
        tmp_path / "program.py",
        method,
        ring_name,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert ring_name not in segments()


def test_a_ring_starts_no_resource_tracker(ring_name):
    program = f"""
        from multiprocessing import resource_tracker
        with ringfeed.Ring.create({ring_name!r}, {{"x": ((512,), "int64")}}, slots=8) as ring:
            ringfeed.Ring.attach({ring_name!r}).close()
        assert resource_tracker._resource_tracker._fd is None
        """
    assert run_program(program) == (0, "", "")


# ---- Too little space --------------------------------------------------------------------------------

IN_A_SMALL_SHM = """
import os, ringfeed
def create(name, mebibytes):
    return ringfeed.Ring.create(name, {"x": ((2**20,), "uint8")}, slots=mebibytes)
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 8 * 2**20
try:
    create("much", 64)
except ringfeed.NoSpace as error:
    print(error)
assert os.listdir("/dev/shm") == []
first = create("first", 5)
try:
    create("second", 5)
except ringfeed.NoSpace as error:
    print(error)
assert os.listdir("/dev/shm") == ["ringfeed.first"]
for n in range(5):
    with first.claim() as slot:
        slot["x"] = n
first.close(); first.unlink(); del first, slot
with create("second", 5): pass
assert os.listdir("/dev/shm") == []
"""


def test_a_shared_memory_that_is_too_small_is_a_clear_error_and_leaves_nothing():
    script = "mount -t tmpfs -o size=8m tmpfs /dev/shm"
    first, second = run_in_mount_namespace(script, IN_A_SMALL_SHM)
    assert first.startswith("ring 'much': 64 slots of 1048576 bytes need 67")
    assert "bytes of shared memory, /dev/shm has 8388608 free. Ask for fewer slots" in first
    for remedy in ("--shm-size=", "emptyDir", "mount -o remount,size="):
        assert remedy in first
    assert second.startswith("ring 'second': 5 slots of 1048576 bytes need 5")


def test_a_ring_that_does_not_fit_leaves_no_segment(ring_name):
    with pytest.raises(ringfeed.NoSpace):
        ringfeed.Ring.create(ring_name, {"x": ((2**50,), "uint8")}, slots=1)
    wait_until(lambda: ring_name not in segments())


# ---- Another user ------------------------------------------------------------------------------------


def as_nobody(pipe, name):
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    said = []
    for call in (lambda: ringfeed.Ring.attach(name), lambda: ringfeed.Ring.create(name, FIELDS)):
        try:
            call()
        except ringfeed.RingFeedError as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_users_ring_is_refused_in_words(ring, start):
    attaching, creating = start(as_nobody, ring.name).result()
    assert "belongs to another user; rings are private to one user (mode 0600)" in attaching
    assert "belongs to another user" in creating
    ring.put(record(1))
    assert take_all(ring) == [1]
