"""Two users on one machine: RingFeed uses nothing of another user's, unless a group shares it."""

import array
import contextlib
import os
import socket
import stat

import pytest

import ringfeed
from ringfeed.client.reply_pool import PoolSettings, ReplyPool
from ringfeed.sharing import access
from support import numbers, record, segment_path, segments, take_all

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")

FIELDS = {"x": ((512,), "int64")}
OUTPUTS = {"y": ((4,), "float32")}
ROOT, SQUATTER, OTHER = 0, 65534, 54321
GROUP, OTHER_GROUP = 54000, 54001
USERS = pytest.mark.parametrize(
    ("squatter", "victim"),
    [(SQUATTER, ROOT), (SQUATTER, OTHER), (ROOT, OTHER)],
    ids=["root is the victim", "another user is the victim", "root is the squatter"],
)


def become(user, *groups):
    assert ringfeed.Client, "a late import may need a file that this user may not read"
    os.setgroups(groups)
    os.setgid(user)
    os.setuid(user)


def own_ring(pipe, user, groups, name, mode, group=None):
    """Own a ring as a user and set its file's mode; then execute the test's commands."""
    become(user, *groups)
    ring = ringfeed.Ring.create(name, FIELDS, slots=8, group=group)
    if mode is not None:
        segment_path(name).chmod(mode)
    pipe.tell("made")
    while (what := pipe.hear()) != "end":
        if what == "take":
            pipe.tell(take_all(ring))
        if what == "pool":
            pool = ReplyPool.make(ring, OUTPUTS, 8, 16, PoolSettings())
            pool.serve(ring)
            pipe.tell(segment_path(f"{name}.replies").stat().st_mode & 0o777)
        if what == "serve":
            held = pool.hold(ring.take(max_rows=8))
            for requests in held:
                requests.answer([requests.batch["x"][:, :4].astype("float32")], 0, 1)
            pipe.tell(len(held))
    ring.close()
    ring.unlink()
    return True


def squat(pipe, user, name, mode, content):
    """Create a file under the name, as a user, with the content of a ring."""
    become(user)
    path = segment_path(name)
    path.write_bytes(content)
    path.chmod(mode)
    pipe.tell("made")
    pipe.hear()
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def said_by(pipe, user, groups, calls, *arguments):
    become(user, *groups)
    return refusals(calls, *arguments)


def refusals(calls, *arguments):
    said = []
    for call in calls:
        try:
            said.append(f"no error: {call(*arguments)}")
        except ringfeed.AccessRefused as error:
            said.append(str(error))
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def attach(name):
    return ringfeed.Ring.attach(name)


def create(name):
    return ringfeed.Ring.create(name, FIELDS, slots=8)


def ask(name):
    return ringfeed.Client(name, timeout=0.0)


def listed(name):
    return [info.name for info in ringfeed.list_segments(f"{name}*")]


def cleaned(name):
    return [info.name for info in ringfeed.clean(f"{name}*")]


# ---- Another user created the name first -------------------------------------------------------------


@USERS
@pytest.mark.parametrize("mode", [0o666, 0o660, 0o600])
def test_a_ring_that_another_user_made_first_is_refused_with_its_owner_and_mode(
    ring_name, start, squatter, victim, mode
):
    child = start(own_ring, squatter, [], ring_name, mode)
    child.told()
    for said in start(said_by, victim, [], (attach, create, ask), ring_name).result():
        assert f"ring '{ring_name}' belongs to another user" in said
        assert f"Its owner is user {access.user_name(squatter)}" in said
        assert f"its mode {mode:04o}; this process is user {access.user_name(victim)}" in said
        assert "group=" in said
    child.tell("take")
    assert child.told() == []
    child.tell("end")
    child.result()


def look_around(pipe, user, name, groups=()):
    become(user, *groups)
    with ringfeed.Ring.create(f"{name}-own", FIELDS, slots=8):
        found, removed = listed(name), cleaned(name)
    return found, removed, segment_path(name).exists()


@USERS
def test_listing_and_cleaning_skip_segments_of_another_user(ring_name, start, squatter, victim):
    for number, mode in enumerate((0o666, 0o600)):
        start(squat, squatter, f"{ring_name}-a{number}", mode, b"hello, world" * 1000).told()
    child = start(own_ring, squatter, [], ring_name, 0o666)
    child.told()
    found, removed, is_there = start(look_around, victim, ring_name).result()
    assert found == [ring_name, f"{ring_name}-a0", f"{ring_name}-a1", f"{ring_name}-own"]
    assert (removed, is_there) == ([], True)
    child.tell("end")
    child.result()
    for number in range(2):
        segment_path(f"{ring_name}-a{number}").unlink()


def make_pool(name):
    with ringfeed.Ring.create(name, FIELDS, slots=8) as ring:
        ReplyPool.make(ring, OUTPUTS, 8, 16, PoolSettings())


def wait_for_pool(name):
    with ringfeed.Ring.create(name, FIELDS, slots=8) as ring:
        ReplyPool.wait_for(ring, 0.0)


@USERS
@pytest.mark.parametrize("mode", [0o666, 0o600])
def test_neither_engine_nor_client_uses_replies_that_another_user_made(ring_name, start, squatter, victim, mode):
    with ringfeed.Ring.create(f"{ring_name}-whole", FIELDS, slots=8) as ring:
        content = segment_path(ring.name).read_bytes()
    replies = f"{ring_name}.replies"
    child = start(squat, squatter, replies, mode, content)
    child.told()
    for said in start(said_by, victim, [], (make_pool, wait_for_pool), ring_name).result():
        assert f"ring '{replies}' belongs to another user" in said
        assert f"Its owner is user {access.user_name(squatter)}" in said
    assert ring_name not in segments(), "another user's file blocks no ring's removal"
    child.tell("end")
    child.result()


def write_with_umask(pipe, name):
    os.umask(0o277)
    with ringfeed.Ring.create(name, FIELDS, slots=8) as ring, ringfeed.Ring.attach(name) as other:
        other.put(record(1))
        return take_all(ring), stat.S_IMODE(segment_path(name).stat().st_mode)


def test_a_ring_has_its_mode_with_any_umask(ring_name, start):
    assert start(write_with_umask, ring_name).result() == ([1], 0o600)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606, 0o666, 0o610, 0o601])
def test_a_ring_of_our_own_that_others_may_open_is_refused(ring, mode):
    segment_path(ring.name).chmod(mode)
    with pytest.raises(
        ringfeed.AccessRefused, match=rf"'{ring.name}' can be opened by other users.*its mode {mode:04o}"
    ):
        ringfeed.Ring.attach(ring.name)
    segment_path(ring.name).chmod(0o600)
    ringfeed.Ring.attach(ring.name).close()


# ---- Descriptors -------------------------------------------------------------------------------------


def send_descriptor(pipe, user, descriptor, named, mode):
    """Create a ring as a user and send its descriptor."""
    become(user)
    ring = ringfeed.Ring.create(named, FIELDS, slots=8) if named else ringfeed.Ring.create_nameless(FIELDS, slots=8)
    os.fchmod(ring.descriptor, mode)
    with socket.socket(fileno=descriptor) as channel:
        socket.send_fds(channel, [b"x"], [ring.descriptor])
    pipe.hear()
    ring.__exit__(None, None, None)


@pytest.mark.parametrize("mode", [0o600, 0o666])
@pytest.mark.parametrize("named", [False, True])
def test_a_descriptor_that_another_user_sent_is_refused(ring_name, start, named, mode):
    ours, theirs = socket.socketpair()
    child = start(
        send_descriptor, SQUATTER, theirs.fileno(), ring_name if named else None, mode, pass_fds=(theirs.fileno(),)
    )
    with ours, theirs:
        received = array.array("i", socket.recv_fds(ours, 1, 1)[1])[0]
    with pytest.raises(ringfeed.AccessRefused, match=rf"'sent' belongs to another user.*{SQUATTER}.*{mode:04o}"):
        ringfeed.Ring.attach_descriptor(received, "sent")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(received)
    child.tell("end")
    child.result()


# ---- A group -----------------------------------------------------------------------------------------


def put_one(name, group):
    ring = ringfeed.Ring.attach(name, group=group)
    ring.put(record(7))
    ring.close()
    return "put"


def test_members_of_a_group_share_a_ring_that_both_sides_give_the_group_for(ring_name, start):
    child = start(own_ring, SQUATTER, [GROUP], ring_name, None, GROUP)
    child.told()
    status = segment_path(ring_name).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (SQUATTER, GROUP, 0o660)
    for user in (OTHER, ROOT):
        assert start(said_by, user, [GROUP], (put_one,), ring_name, GROUP).result() == ["no error: put"]
    child.tell("take")
    assert child.told() == [7, 7]
    child.tell("end")
    child.result()


@pytest.mark.parametrize(
    ("groups", "given", "message"),
    [
        ([GROUP], None, "belongs to another user"),
        (
            [GROUP, OTHER_GROUP],
            OTHER_GROUP,
            f"is not shared with group {OTHER_GROUP} alone (mode 0660). Its owner is user",
        ),
        ([], GROUP, f"cannot be opened by user {OTHER}. Its owner is user"),
        ([OTHER_GROUP], OTHER_GROUP, f"is not shared with group {OTHER_GROUP}"),
    ],
    ids=["without group=", "another group", "no member", "neither"],
)
def test_a_user_outside_the_group_or_with_another_group_is_refused(ring_name, start, groups, given, message):
    child = start(own_ring, SQUATTER, [GROUP], ring_name, None, GROUP)
    child.told()
    (said,) = start(said_by, OTHER, groups, (put_one,), ring_name, given).result()
    assert ring_name in said
    assert message in said
    child.tell("end")
    child.result()


def test_a_private_ring_is_not_opened_for_a_group_nor_a_group_ring_without_one(ring_name, ring):
    with pytest.raises(ringfeed.AccessRefused, match=r"is not shared with group 0 \(root\) alone.*its mode 0600"):
        ringfeed.Ring.attach(ring.name, group=0)
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8, group=GROUP):
        with pytest.raises(ringfeed.AccessRefused, match=r"can be opened by other users.*give the same group here"):
            ringfeed.Ring.attach(ring_name)
        segment_path(ring_name).chmod(0o666)
        with pytest.raises(ringfeed.AccessRefused, match="its mode 0666"):
            ringfeed.Ring.attach(ring_name, group=GROUP)
        segment_path(ring_name).chmod(0o660)
        ringfeed.Ring.attach(ring_name, group=GROUP).close()


def create_for(name, group):
    return ringfeed.Ring.create(name, FIELDS, slots=8, group=group)


def create_nameless_for(name, group):
    return ringfeed.Ring.create_nameless(FIELDS, slots=8, name=name, group=group)


def test_a_user_cannot_share_with_a_group_without_being_a_member(ring_name, start):
    for said in start(said_by, OTHER, [], (create_for, create_nameless_for), ring_name, GROUP).result():
        assert f"'{ring_name}': user {OTHER} is no member of group {GROUP} and cannot share with it" in said
    assert ring_name not in segments()


@pytest.mark.parametrize(
    ("group", "error"),
    [("no such group", ValueError), (-1, ValueError), (2**32, ValueError), (1.5, TypeError), (True, TypeError)],
)
def test_an_argument_that_is_not_a_group_is_refused_with_a_clear_error(ring_name, group, error):
    for call in (create_for, create_nameless_for, put_one):
        with pytest.raises(error, match=rf"'{ring_name}': group {group!r}.*give the name or the number of a group"):
            call(ring_name, group)


def test_a_group_may_be_a_name_and_travels_with_the_ring_and_its_levels(ring_name):
    with ringfeed.Ring.create(ring_name, FIELDS, slots=8, group="root", priorities=3) as ring:
        assert ring.group == 0
        other = ringfeed.Ring.attach(ring_name, group=0)
        again = ring.__reduce__()[0](*ring.__reduce__()[1])
        assert [len(each.levels) for each in (other, again)] == [3, 3]
        assert {level.group for each in (other, again) for level in each.levels} == {0}
        other.close()
        again.close()


def ask_as_member(pipe, user, name, group):
    become(user, group)
    with ringfeed.Client(name, group=group) as client:
        future = client.submit(record(5))
        pipe.tell("asked")
        return future.result()["y"].tolist()


def test_requests_to_a_ring_of_a_group_are_answered_through_a_pool_of_the_same_group(ring_name, start):
    child = start(own_ring, SQUATTER, [GROUP], ring_name, None, GROUP)
    child.told()
    child.tell("pool")
    assert child.told() == 0o660
    assert segment_path(f"{ring_name}.replies").stat().st_gid == GROUP
    asking = start(ask_as_member, OTHER, ring_name, GROUP)
    asking.told()
    child.tell("serve")
    assert child.told() == 1
    assert asking.result() == [5.0] * 4
    child.tell("end")
    child.result()


def receive_as_member(pipe, descriptor):
    become(OTHER, GROUP)
    ring = ringfeed.Ring.attach_descriptor(descriptor, "sent", group=GROUP)
    ring.put(record(3))
    ring.close()


def test_a_nameless_ring_is_shared_with_a_group_too(start):
    with ringfeed.Ring.create_nameless(FIELDS, slots=8, group=GROUP) as ring:
        descriptor = os.dup(ring.descriptor)
        start(receive_as_member, descriptor, pass_fds=(descriptor,)).result()
        with ring.take(1) as batch:
            assert numbers(batch) == [3]
        with pytest.raises(ringfeed.AccessRefused, match="can be opened by other users"):
            ringfeed.Ring.attach_descriptor(os.dup(ring.descriptor), "sent")


# ---- Segments of dead owners -------------------------------------------------------------------------


def own_and_die(pipe, user, name):
    become(user)
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    pipe.tell("made")
    pipe.hear()
    ring.put(record(1))


def clean_as(pipe, user, name):
    become(user)
    return cleaned(name)


def test_a_segment_of_a_dead_owner_is_cleaned_only_by_root_and_its_user(ring_name, start):
    for number, (cleaner, removes) in enumerate([(OTHER, False), (SQUATTER, True), (ROOT, True)]):
        name = f"{ring_name}-{number}"
        child = start(own_and_die, SQUATTER, name)
        child.told()
        child.kill()
        assert start(clean_as, cleaner, name).result() == ([name] if removes else [])
        assert (name in segments()) == (not removes)
        segment_path(name).unlink(missing_ok=True)


def test_a_name_that_another_users_dead_owner_left_is_refused_and_not_replaced(ring_name, start):
    child = start(own_and_die, SQUATTER, ring_name)
    child.told()
    child.kill()
    for user in (ROOT, OTHER):
        (said,) = start(said_by, user, [], (create,), ring_name).result()
        assert f"ring '{ring_name}' belongs to another user" in said
    segment_path(ring_name).unlink()
