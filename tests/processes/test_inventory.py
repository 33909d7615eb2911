"""`list_segments` and `clean`: they list every ring and remove dead owners' rings alone, also in races for a name."""

import os
import subprocess
import sys
import time

import pytest

import ringfeed
from namespaces import PID_NAMESPACE, require_pid_namespaces
from ringfeed import segment
from support import in_thread, record, segment_path, segments, take_all, wait_until

FIELDS = {"x": ((512,), "int64"), "y": ((3, 5), "float32")}


def listed(name):
    """Return the listed segment of a name, or None."""
    (info,) = ringfeed.list_segments(name) or [None]
    return info


def cleaned(name, **options):
    """Clean, and return the removed names. Segments of other runs of these tests stay."""
    return [info.name for info in ringfeed.clean(f"{name}*", **options)]


def own(pipe, name):
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    pipe.tell("created")
    pipe.hear()
    ring.close()
    ring.unlink()


def killed_owner(start, name):
    child = start(own, name)
    child.told()
    child.kill()
    return child


# ---- Listing -----------------------------------------------------------------------------------------


def test_a_ring_is_listed_with_its_layout_and_its_participants(ring_name, start):
    child = start(own, ring_name)
    child.told()
    info = listed(ring_name)
    ring = ringfeed.Ring.attach(ring_name)
    assert info == ringfeed.SegmentInfo(
        ring_name,
        owner_alive=True,
        bytes=ring.segment_bytes,
        age_seconds=info.age_seconds,
        slots=ring.slots,
        spec=ring.spec,
        creator_pid=child.pid,
        participants=1,
    )
    assert 0 <= info.age_seconds < 1e6
    second = ringfeed.Ring.attach(ring_name)
    assert listed(ring_name).participants == 3
    second.close()
    child.kill()
    del second
    info = listed(ring_name)
    assert (info.owner_alive, info.participants, info.creator_pid) == (False, 1, child.pid)
    ring.close()
    ring.unlink()
    assert listed(ring_name) is None


@pytest.mark.parametrize("content", [b"", b"hello, world" * 10_000, bytes(100_000), "another version", "cut short"])
def test_a_segment_that_is_no_whole_ring_is_listed_without_a_rings_details(ring, ring_name, content):
    if isinstance(content, str):
        whole = bytearray(segment_path(ring.name).read_bytes())
        if content == "another version":
            whole[8] += 41
        content = whole[:-4096] if content == "cut short" else whole
    segment_path(ring_name).write_bytes(content)
    info = listed(ring_name)
    assert (info.owner_alive, info.slots, info.spec, info.creator_pid, info.participants) == (False, *[None] * 4)
    segment_path(ring_name).unlink()


def test_looking_keeps_the_locks_of_this_process_and_opens_no_descriptor_for_good(ring, start):
    listed(ring.name)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        assert listed(ring.name).owner_alive is True
        assert cleaned(ring.name) == []
        ringfeed.Ring.attach(ring.name).close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # one descriptor, for the ring attached last
    assert start(lambda pipe, name: listed(name).owner_alive, ring.name).result() is True


def test_a_ring_in_another_threads_hands_is_looked_at_without_an_error(ring_name):
    def create_again_and_again():
        for _ in range(300):
            with ringfeed.Ring.create(ring_name, FIELDS, slots=8):
                pass

    with in_thread(create_again_and_again) as done:
        while not done.done():
            listed(ring_name)
            assert cleaned(ring_name) == []
    done.result()


# ---- Cleaning ----------------------------------------------------------------------------------------


def test_what_a_killed_owner_left_is_removed_once(ring_name, start):
    child = killed_owner(start, ring_name)
    assert cleaned(ring_name, dry_run=True) == [ring_name]
    assert ring_name in segments()
    (info,) = ringfeed.clean(ring_name)
    assert (info.owner_alive, info.slots, info.creator_pid) == (False, 64, child.pid)
    assert ring_name not in segments()
    assert cleaned(ring_name) == []


def test_a_living_owner_keeps_its_ring_running_or_stopped(ring, ring_name, start):
    child = start(own, ring_name)
    child.told()
    for stop in (lambda: None, child.stop):
        stop()
        assert cleaned(ring_name) == cleaned(ring.name) == []
    assert {ring.name, ring_name} <= set(segments())
    child.resume()
    child.tell("end")
    child.result()


def test_a_ring_whose_owner_only_closed_it_is_removed(ring):
    ring.close()
    assert cleaned(ring.name) == [ring.name]


def test_a_survivor_keeps_the_memory_of_a_ring_that_is_cleaned_away(ring_name, start):
    child = start(own, ring_name)
    child.told()
    ring = ringfeed.Ring.attach(ring_name)
    ring.put({"x": record(5)["x"], "y": record(0)["x"][:15].reshape(3, 5).astype("float32")})
    batch = ring.take(max_rows=1)
    child.kill()
    assert cleaned(ring_name) == [ring_name]
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8) as other:
        assert (batch["x"] == 5).all()
        batch["x"][...] = 6
        with pytest.raises(ringfeed.RingClosed):
            ring.take(max_rows=1)
        ring.unlink()  # refers to the old ring
        assert not other.closed
        assert ring_name in segments()
        assert other.stats()["published"] == 0
    assert (batch["x"] == 6).all()
    batch.release()
    ring.close()


def test_what_died_half_way_is_removed_when_it_can_not_be_in_the_making_any_more(ring_name):
    path = segment_path(ring_name)
    path.touch(mode=0o600)
    assert cleaned(ring_name) == []
    wait_until(lambda: time.time() - path.stat().st_ctime > segment.CREATION_SECONDS)
    assert cleaned(ring_name) == [ring_name]
    path.write_bytes(bytes(100_000))  # a segment with a size once had an owner
    assert cleaned(ring_name) == [ring_name]


def test_files_that_are_no_segments_of_ours_are_left_alone(ring, ring_name, tmp_path):
    path = segment_path(ring_name)
    path.write_bytes(b"hello, world" * 10_000)
    other = segment_path(ring_name + " no ring could be called so")
    other.touch()
    link = segment_path(ring_name + "-link")
    link.symlink_to(segment_path(ring.name))
    folder = segment_path(ring_name + "-folder")
    folder.mkdir()
    try:
        assert cleaned(ring_name) == []
        assert [info.name for info in ringfeed.list_segments(f"{ring_name}*")] == [ring_name]
    finally:
        folder.rmdir()
        for left in (path, other, link):
            left.unlink()


def as_nobody(pipe, name):
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    return listed(name), cleaned(name), cleaned(name, dry_run=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_users_segment_is_listed_from_outside_and_left_alone(ring_name, start):
    killed_owner(start, ring_name)
    info, removed, would_be = start(as_nobody, ring_name).result()
    assert (info.name, info.owner_alive, info.slots) == (ring_name, None, None)
    assert info.bytes > 0
    assert removed == would_be == []
    assert cleaned(ring_name) == [ring_name]


# ---- Races -------------------------------------------------------------------------------------------


def clean_when_told(pipe, name, rounds):
    pipe.tell("ready")
    found = []
    for _ in range(rounds):
        pipe.hear()
        found.append(cleaned(name))
        pipe.tell("done")
    return found


def test_of_two_cleaners_one_removes_it_and_says_so(ring_name, start):
    rounds = 20
    cleaners = [start(clean_when_told, ring_name, rounds) for _ in range(2)]
    for cleaner in cleaners:
        cleaner.told()
    whole = None
    for turn in range(rounds):
        with ringfeed.Ring.create(f"{ring_name}-{turn}", FIELDS, slots=8) as ring:
            whole = whole or segment_path(ring.name).read_bytes()
        path = segment_path(f"{ring_name}-{turn}")
        path.write_bytes(whole)
        path.chmod(0o600)
        for cleaner in cleaners:
            cleaner.tell("go")
        for cleaner in cleaners:
            cleaner.told()
        assert not path.exists()
    first, second = (cleaner.result() for cleaner in cleaners)
    for turn in range(rounds):
        assert (first[turn] + second[turn]).count(f"{ring_name}-{turn}") == 1


def create_and_die(name):
    """Run a function in a forked child, which is fast enough for hundreds of dead owners."""
    ring = ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=1, participants=8)
    ring.put(record(1))
    os._exit(0)


def own_again_and_again(pipe, name, seconds):
    """Create the ring repeatedly, end it by death or by an orderly close, and check that its name means this ring."""
    pipe.tell("ready")
    pipe.hear()
    made = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        child = os.fork()
        if child == 0:
            try:
                create_and_die(name)
            except ringfeed.RingExists:
                os._exit(0)
        os.waitpid(child, 0)
        for _ in range(20):
            try:
                ring = ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=1, participants=8)
            except ringfeed.RingExists:
                continue
            for _ in range(3):
                assert segment.identity_of(name) == segment.identity(ring.descriptor), "a living ring lost its name"
            ring.close()
            ring.unlink()
            made += 1
    return made


def clean_again_and_again(pipe, name):
    pipe.tell("ready")
    pipe.hear()
    removed = 0
    while True:
        removed += len(cleaned(name))
        if pipe.is_told():
            return removed


def test_creators_and_cleaners_that_race_for_a_name_never_take_it_from_the_living(ring_name, start):
    cleaners = [start(clean_again_and_again, ring_name) for _ in range(2)]
    creators = [start(own_again_and_again, ring_name, 2.0) for _ in range(3)]
    for child in cleaners + creators:
        child.told()
    for child in cleaners + creators:
        child.tell("go")
    made = [child.result() for child in creators]
    for child in cleaners:
        child.tell("end")
        child.result()
    assert min(made) > 0
    ringfeed.clean(ring_name)
    assert ring_name not in segments()


def test_an_owner_that_closed_does_not_remove_the_next_ring_of_its_name(ring_name, start):
    ring = ringfeed.Ring.create(ring_name, FIELDS, slots=8)
    ring.close()
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8) as other:
        ring.unlink()
        del ring
        assert segment.identity_of(ring_name) == segment.identity(other.descriptor)


# ---- Other process id namespaces ---------------------------------------------------------------------

IN_ANOTHER_NAMESPACE = """
import os, sys
import ringfeed
assert os.getpid() < 10, "in the same namespace"
name = sys.argv[1]
(info,) = ringfeed.list_segments(name)
print(info.owner_alive, info.participants, name in [info.name for info in ringfeed.clean(name)])
"""


def test_a_cleaner_in_another_pid_namespace_sees_living_participants(ring_name, start):
    require_pid_namespaces()
    child = start(own, ring_name)
    child.told()
    command = [*PID_NAMESPACE, sys.executable, "-c", IN_ANOTHER_NAMESPACE, ring_name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True 1 False\n", "")
    child.kill()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False 0 True\n", "")
    assert ring_name not in segments()


def test_a_cleaned_name_can_be_created_anew(ring_name, start):
    killed_owner(start, ring_name)
    ringfeed.clean(ring_name)
    with ringfeed.Ring.create(ring_name, {"x": ((512,), "int64")}, slots=8) as ring:
        ring.put(record(3))
        assert take_all(ring) == [3]
