"""A ring's descriptor is sent over a Unix socket and received by another process."""

import os
import socket

import pytest

import ringfeed
from ringfeed.sharing import descriptors
from support import numbers, record, take_all

FIELDS = {"x": ((512,), "int64")}


def receive_and_put(pipe, descriptor):
    with socket.socket(fileno=descriptor) as sock:
        ring = ringfeed.Ring.receive(sock)
    levels = ring.levels
    for number, level in enumerate(levels):
        level.put(record(number))
    pipe.tell((ring.name, ring.is_owner, len(levels)))
    pipe.hear()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
@pytest.mark.parametrize("how", ["named", "nameless", "priorities"])
def test_a_ring_is_handed_over_a_unix_socket(ring_name, start, kind, how):
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    if how == "nameless":
        ring = ringfeed.Ring.create_nameless(FIELDS, slots=8, name=ring_name)
    else:
        ring = ringfeed.Ring.create(ring_name, FIELDS, slots=8, priorities=3 if how == "priorities" else 1)
    with ring, ours, theirs:
        child = start(receive_and_put, theirs.fileno(), pass_fds=(theirs.fileno(),))
        ring.send(ours)
        assert child.told() == (ring_name, False, len(ring.levels))
        for number, level in enumerate(ring.levels):
            assert take_all(level) == [number]
        child.tell()
        child.result()


def test_several_rings_over_one_socket_arrive_one_by_one(ring, ring_name):
    ours, theirs = socket.socketpair()
    with ours, theirs, ringfeed.Ring.create(ring_name, FIELDS, slots=8) as second:
        ring.send(ours)
        second.send(ours)
        ours.sendall(b"something else")
        first, other = ringfeed.Ring.receive(theirs), ringfeed.Ring.receive(theirs)
        assert (first.name, other.name) == (ring.name, second.name)
        with pytest.raises(ringfeed.RingFeedError, match="not sent by"):
            ringfeed.Ring.receive(theirs)
        other.put(record(4))
        assert numbers(second.take(max_rows=1)) == [4]
        first.close()
        other.close()


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"name":7}', b'{"name":"a/b"}', b"{", b"[" * 60_000, b"\xff\xfe"],
    ids=lambda body: str(body)[:20],
)
def test_a_message_that_names_no_ring_is_refused_and_leaves_no_descriptor(ring, body):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = len(os.listdir("/proc/self/fd"))
        head = descriptors._HEAD.pack(descriptors._MAGIC, len(body), 1)
        socket.send_fds(ours, [head + body], [ring.descriptor])
        with pytest.raises((ringfeed.LayoutMismatch, ValueError)):
            ringfeed.Ring.receive(theirs)
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_socket_that_carries_no_descriptors_is_refused(ring, family):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        with pytest.raises(ValueError, match="Unix socket only"):
            ring.send(sock)
        with pytest.raises(ValueError, match="Unix socket only"):
            ringfeed.Ring.receive(sock)


def test_an_argument_that_is_not_a_blocking_socket_is_refused(ring):
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(TypeError, match="a socket is needed, not int"):
            ring.send(3)
        ours.setblocking(False)
        with pytest.raises(ValueError, match="is non-blocking"):
            ring.send(ours)
        ours.close()
        with pytest.raises(ValueError, match="closed"):
            ring.send(ours)
        with pytest.raises(ringfeed.RingFeedError, match="other end of the socket was closed"):
            ringfeed.Ring.receive(theirs)
