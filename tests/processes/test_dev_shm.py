"""Unusual entries of /dev/shm, names of every length, and an unusable /dev/shm: every call ends with a clear error."""

import os
import socket

import pytest

import ringfeed
from namespaces import run_in_mount_namespace
from ringfeed.client.reply_pool import PoolSettings, ReplyPool
from support import record, segment_path, segments, take_all

FIELDS = {"x": ((512,), "int64")}
OUTPUTS = {"y": ((4,), "float32")}


def dangling_link(path):
    path.symlink_to("/nowhere/at/all")


def looping_link(path):
    path.symlink_to(path)


def link_to_a_file(path):
    path.symlink_to("/etc/passwd")


def directory(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path, 0o600)


def listening_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def device(path):
    if os.getuid() != 0:
        pytest.skip("only root may make a device")
    try:
        os.mknod(path, 0o20600, os.makedev(1, 5))
    except PermissionError as error:
        pytest.skip(f"may not make a device: {error}")


KINDS = {
    dangling_link: "a symbolic link",
    looping_link: "a symbolic link",
    link_to_a_file: "a symbolic link",
    directory: "a directory",
    pipe: "a pipe",
    listening_socket: "a socket",
    device: "a device",
}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def stand(request):
    """Create an entry of some kind under a name; return its kind in words."""
    made = []

    def put(name):
        request.param(segment_path(name))
        made.append(segment_path(name))
        return KINDS[request.param]

    yield put
    for path in made:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.timeout(20)
def test_a_ring_is_neither_made_nor_opened_where_no_file_stands(ring_name, stand):
    what = stand(ring_name)
    calls = {
        "create": lambda: ringfeed.Ring.create(ring_name, FIELDS, slots=8),
        "attach": lambda: ringfeed.Ring.attach(ring_name),
        "attach, waiting for ever": lambda: ringfeed.Ring.attach(ring_name, timeout=None),
        "attach by group": lambda: ringfeed.Ring.attach(ring_name, group=0),
        "ask": lambda: ringfeed.Client(ring_name),
    }
    for call in calls.values():
        with pytest.raises(ringfeed.AccessRefused, match=rf"'{ring_name}': {what} has this name.*Remove it"):
            call()
    assert ring_name in segments()


@pytest.mark.timeout(20)
def test_listing_and_cleaning_skip_entries_that_are_no_files(ring_name, stand):
    stand(f"{ring_name}-a")
    with ringfeed.Ring.create(f"{ring_name}-b", FIELDS, slots=8):
        assert [info.name for info in ringfeed.list_segments(f"{ring_name}*")] == [f"{ring_name}-b"]
        assert ringfeed.clean(f"{ring_name}*") == []
    assert f"{ring_name}-a" in segments()


@pytest.mark.timeout(20)
def test_a_pool_of_replies_is_not_made_where_no_file_stands_and_the_ring_goes_all_the_same(ring_name, stand):
    what = stand(f"{ring_name}.replies")
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8) as ring:
        for call in (
            lambda: ReplyPool.make(ring, OUTPUTS, 8, 16, PoolSettings()),
            lambda: ReplyPool.wait_for(ring, 1e9),
            lambda: ringfeed.Client(ring, timeout=None),
        ):
            with pytest.raises(ringfeed.AccessRefused, match=rf"'{ring_name}.replies': {what} has this name"):
                call()
        ring.put(record(1))
        assert take_all(ring) == [1]
    assert ring_name not in segments()


@pytest.mark.timeout(20)
def test_another_level_is_not_made_where_no_file_stands_and_leaves_none_behind(ring_name, stand):
    what = stand(f"{ring_name}.priority-2")
    with pytest.raises(ringfeed.AccessRefused, match=f"{what} has this name"):
        ringfeed.Ring.create(ring_name, FIELDS, slots=8, priorities=4)
    assert [name for name in segments() if name.startswith(ring_name)] == [f"{ring_name}.priority-2"]


# ---- Names of every length ---------------------------------------------------------------------------


@pytest.mark.parametrize("length", [189, 190, 192, 193, 199, 200])
def test_a_name_of_any_length_that_is_allowed_works_to_its_end(ring_name, length):
    name = ring_name + "x" * (length - len(ring_name))
    with ringfeed.Ring.create(name, FIELDS, slots=8, priorities=2) as ring:
        pool = ReplyPool.make(ring, OUTPUTS, 8, 16, PoolSettings())
        other = ringfeed.Ring.attach(name)
        other.levels[1].put(record(4))
        assert take_all(ring.levels[1]) == [4]
        names = [name, f"{name}.priority-1", f"{name}.replies"]
        assert [info.name for info in ringfeed.list_segments(f"{ring_name}*")] == names
        other.close()
        pool.close()
    assert not [left for left in segments() if left.startswith(ring_name)]


@pytest.mark.parametrize("length", [200, 193])
def test_what_is_left_of_a_ring_with_a_long_name_is_cleaned_away(ring_name, start, length):
    name = ring_name + "x" * (length - len(ring_name))

    def own(pipe, name):
        ring = ringfeed.Ring.create(name, FIELDS, slots=8, priorities=2)
        ReplyPool.make(ring, OUTPUTS, 8, 16, PoolSettings())
        pipe.tell("made")
        pipe.hear()

    child = start(own, name)
    child.told()
    child.kill()
    names = [name, f"{name}.priority-1", f"{name}.replies"]
    assert [info.name for info in ringfeed.clean(f"{ring_name}*")] == names
    assert not [left for left in segments() if left.startswith(ring_name)]


# ---- /dev/shm itself ---------------------------------------------------------------------------------

CALLS = """
import os, sys
import ringfeed
ringfeed.Client, ringfeed.Ring.create_nameless({"x": ((512,), "int64")}, slots=8).close()
if len(sys.argv) > 1:
    os.setgroups([]); os.setgid(54321); os.setuid(54321)
FIELDS = {"x": ((512,), "int64")}
for call in (lambda: ringfeed.Ring.create("a", FIELDS), lambda: ringfeed.Ring.attach("a"),
             lambda: ringfeed.Client("a", timeout=0), ringfeed.list_segments, ringfeed.clean):
    try:
        print("no error", call())
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
with ringfeed.Ring.create_nameless(FIELDS, slots=8) as ring:
    ring.put({"x": [1] * 512})
    print(len(ring.take(1)))
"""


def run_where(script, *arguments):
    """Run the calls in a mount namespace that a script has changed; return what each call said."""
    return run_in_mount_namespace(script, CALLS, *arguments, timeout=30)


def test_without_dev_shm_every_call_ends_and_says_so_and_nameless_rings_work():
    created, attached, asked, listed, cleaned, nameless = run_where("mount -t tmpfs tmpfs /dev")
    assert created.startswith(
        "RingFeedError: ring 'a': there is no folder /dev/shm here, where named rings are kept (No such"
    )
    assert "mount -t tmpfs tmpfs /dev/shm" in created
    assert "Ring.create_nameless" in created
    assert attached == asked == "RingNotFound: no ring 'a' exists. Create it first, or pass timeout= to wait for it."
    for said in (listed, cleaned):
        assert said.startswith("RingFeedError: the list of rings: there is no folder /dev/shm here")
    assert nameless == "1"


def test_where_dev_shm_is_a_file_or_a_dangling_link_every_call_says_so():
    for made in ("touch /dev/shm", "ln -s /nowhere /dev/shm", "ln -s /dev/shm /dev/shm"):
        said = run_where(f"mount -t tmpfs tmpfs /dev && {made}")
        assert said[0].startswith("RingFeedError: ring 'a': there is no folder /dev/shm here")
        assert said[3] == said[4]
        assert said[3].startswith("RingFeedError: the list of rings: there is no folder /dev/shm here")
        assert said[5] == "1"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("mode", ["0700", "0600", "0000"])
def test_a_dev_shm_that_this_user_may_not_use_is_said_in_words_by_every_call(mode):
    said = run_where(f"mount -t tmpfs -o mode={mode} tmpfs /dev/shm", "as another user")
    for line in said[:5]:
        assert "user 54321 has no permission in /dev/shm (Permission denied)" in line
        assert "chmod 1777 /dev/shm" in line
        assert line.startswith("RingFeedError: ")
    assert said[5] == "1"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_dev_shm_that_this_user_may_only_read_is_said_in_words():
    created, attached, _, listed, cleaned, nameless = run_where("mount -t tmpfs -o mode=0755 tmpfs /dev/shm", "other")
    assert "ring 'a': user 54321 has no permission in /dev/shm" in created
    assert attached.startswith("RingNotFound")
    assert listed == cleaned == "no error []"
    assert nameless == "1"
