# Waits that last: a look, now and then, at whether they can end.

cdef int64_t LOOK_NS = 40_000_000  # a slice of waiting is 50 ms, but a signal ends it early

cdef enum _Waits:
    WAITS_TO_CLAIM  # for a slot, or a cell
    WAITS_TO_TAKE


@cython.final
@cython.internal
cdef class _Wait:
    """A wait of this thread's, from its second slice on."""

    cdef tuple rings
    cdef _Waits kind
    cdef object stall  # ringfeed.stall.RingStall
    cdef int64_t looked_ns

    cdef int look(self) except -1:
        """Take note of a slice that is over. A warning is raised where the program makes exceptions of them."""
        cdef int64_t now = rf_now_ns()
        if now - self.looked_ns < LOOK_NS:
            return 0
        self.looked_ns = now
        cdef RingBase ring
        cdef rf_stats stats
        cdef list holdings = []
        cdef uint64_t moves = 0
        cdef bint can_end = False, is_over = self.kind == WAITS_TO_TAKE
        cdef uint64_t claimed = 0
        for ring in self.rings:
            rf_ring_stats(ring.opened(), &stats)
            moves += stats.counts.published + stats.counts.discarded + stats.counts.taken + stats.counts.released
            moves += stats.counts.redelivered + stats.counts.dropped + stats.counts.reclaimed
            claimed += stats.claimed
            is_over = is_over and rf_ring_is_finished(ring.handle) and stats.ready == 0
            can_end = can_end or self.may_end(ring, &stats)
            if not can_end:
                holdings += ring._holdings()
        if is_over and claimed != 0:  # nothing can come but what is claimed: whoever forgot it is named
            holdings = [holding for ring in self.rings for holding in ring._holdings() if holding.claimed]
            self.stall.look(holdings, moves, True)
            return 0
        can_end = can_end or self.others_work(holdings)
        self.stall.look(None if can_end else holdings, moves)
        return 0

    cdef bint may_end(self, RingBase ring, const rf_stats *stats):
        """May what is waited for come, without anyone letting go of anything?"""
        if rf_pool_ring_inode(ring.handle) != 0:  # in a pool, READY is an answer that nobody has let go of
            return stats.free + stats.claimed + stats.taken != 0
        return stats.free + stats.ready != 0 or (self.kind == WAITS_TO_TAKE and stats.claimed != 0)

    cdef bint others_work(self, list holdings):
        """Does another process write into a slot, or does this one hold none, so that there is nothing to say here?"""
        return any([holding.claimed and not holding.ours for holding in holdings]) or not any(
            [holding.ours for holding in holdings])


cdef bint minds_stalls(while_waiting) except -1:
    return while_waiting is not None and getattr(while_waiting, "minds_stalls", False)


cdef _Wait noting_stalls(_Wait wait, tuple rings, _Waits kind, str what):
    """Return the wait after one more look; it is made when its first slice is over."""
    if wait is None:
        wait = _Wait.__new__(_Wait)
        wait.rings = rings
        wait.kind = kind
        cells = "reply cells" if rf_pool_ring_inode((<RingBase>rings[0]).handle) != 0 else "slots"
        slots = sum([(<RingBase>ring).slots for ring in rings])
        wait.stall = stall.RingStall((<RingBase>rings[0]).name, what, f"{slots} {cells}")
    wait.look()
    return wait
