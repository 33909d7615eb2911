"""Segments that are no valid ring: attaching refuses them; creating replaces them if no process owns them."""

import pytest

import ringfeed
from support import record, segment_path

FIELDS = {"x": ((512,), "int64")}


def foreign_segment(name, content):
    path = segment_path(name)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("content", [b"x", b"hello, world" * 10_000, b"RINGFEEX" + bytes(100_000)])
def test_a_segment_that_is_no_ring_is_not_attached(ring_name, content):
    foreign_segment(ring_name, content)
    with pytest.raises(ringfeed.LayoutMismatch, match=rf"'{ring_name}': the file of this name in /dev/shm is no Ring"):
        ringfeed.Ring.attach(ring_name)
    segment_path(ring_name).unlink()


@pytest.mark.parametrize("newer_by", [-1, -2, -3, 1, 41])
def test_a_ring_of_another_layout_version_is_refused_with_both_versions(ring, ring_name, newer_by):
    content = bytearray(segment_path(ring.name).read_bytes())
    ours = int.from_bytes(content[8:12], "little")
    theirs = ours + newer_by
    content[8:12] = theirs.to_bytes(4, "little")
    foreign_segment(ring_name, content)
    message = rf"'{ring_name}' has layout version {theirs}; this RingFeed reads version {ours}\. Run the same version"
    with pytest.raises(ringfeed.LayoutMismatch, match=message):
        ringfeed.Ring.attach(ring_name)
    segment_path(ring_name).unlink()


def test_a_ring_that_was_cut_short_is_refused(ring, ring_name):
    content = segment_path(ring.name).read_bytes()
    foreign_segment(ring_name, content[:-4096])
    with pytest.raises(ringfeed.LayoutMismatch, match=rf"ring '{ring_name}' is damaged.*Remove and create it anew"):
        ringfeed.Ring.attach(ring_name)
    segment_path(ring_name).unlink()


def test_a_copy_of_a_ring_has_no_owner(ring, ring_name):
    foreign_segment(ring_name, segment_path(ring.name).read_bytes())
    with pytest.raises(ringfeed.RingClosed, match=ring_name):
        ringfeed.Ring.attach(ring_name)
    segment_path(ring_name).unlink()


def test_a_segment_that_stays_half_made_is_given_up(ring_name):
    foreign_segment(ring_name, bytes(100_000))
    with pytest.raises(ringfeed.RingNotFound, match=rf"ring '{ring_name}' was never initialized.*Create it again"):
        ringfeed.Ring.attach(ring_name)
    segment_path(ring_name).unlink()


@pytest.mark.parametrize("content", [b"", bytes(100_000), b"hello, world" * 10_000])
def test_what_no_living_process_owns_is_replaced(ring_name, content):
    foreign_segment(ring_name, content)
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:
        ring.put(record(1))


def test_a_ring_whose_header_was_garbled_anywhere_is_refused(ring, ring_name):
    content = segment_path(ring.name).read_bytes()
    header_bytes = 1024
    for position in range(0, header_bytes, 3):
        garbled = bytearray(content)
        garbled[position] ^= 0xFF
        foreign_segment(ring_name, garbled)
        with pytest.raises(ringfeed.RingFeedError, match=ring_name):
            ringfeed.Ring.attach(ring_name)
    segment_path(ring_name).unlink()
