# Stalls: during a long wait, a check now and then whether the wait can end. stall.py decides when to warn.

cdef int64_t CHECK_NS = 40_000_000  # a slice of waiting takes 50 ms, but a signal ends it early

cdef enum _Waits:
    WAITS_TO_CLAIM  # for a slot, or for a reply cell
    WAITS_TO_TAKE


@cython.final
@cython.internal
cdef class _StallWatch:
    """Watches one wait of this thread, from its second slice on."""

    cdef tuple rings
    cdef _Waits kind
    cdef object stall  # ringfeed.stall.RingStall
    cdef int64_t checked_ns

    cdef int check(self) except -1:
        """Tell `stall` which participants hold slots. It raises where the program turns warnings into exceptions."""
        cdef int64_t now = rf_now_ns()
        if now - self.checked_ns < CHECK_NS:
            return 0
        self.checked_ns = now
        cdef RingBase ring
        cdef rf_stats stats
        cdef list holdings = []
        cdef uint64_t moves = 0, claimed = 0
        cdef bint can_end = False, is_over = self.kind == WAITS_TO_TAKE
        for ring in self.rings:
            rf_ring_stats(ring.opened(), &stats)
            moves += stats.counts.published + stats.counts.discarded + stats.counts.taken + stats.counts.released
            moves += stats.counts.redelivered + stats.counts.dropped + stats.counts.reclaimed
            claimed += stats.claimed
            is_over = is_over and rf_ring_is_finished(ring.handle) and stats.ready == 0
            can_end = can_end or self.can_end(ring, &stats)
            if not can_end:
                holdings += ring._holdings()
        if is_over and claimed != 0:  # only a claimed record can still come: the stall names its claimer
            holdings = [holding for ring in self.rings for holding in ring._holdings() if holding.claimed]
            self.stall.look(holdings, moves, True)
            return 0
        can_end = can_end or self.is_for_others(holdings)
        self.stall.look(None if can_end else holdings, moves)
        return 0

    cdef bint can_end(self, RingBase ring, const rf_stats *stats):
        """Can the wait end although no process releases anything?"""
        if rf_pool_ring_inode(ring.handle) != 0:  # in a pool, READY is an answer that its client still holds
            return stats.free + stats.claimed + stats.taken != 0
        return stats.free + stats.ready != 0 or (self.kind == WAITS_TO_TAKE and stats.claimed != 0)

    cdef bint is_for_others(self, list holdings):
        """Does another process still write a record, or does this process hold no slot? Then it has nothing to release."""
        return any([holding.claimed and not holding.ours for holding in holdings]) or not any(
            [holding.ours for holding in holdings])


cdef _StallWatch new_stall_watch(tuple rings, _Waits kind, str operation):
    cdef _StallWatch watch = _StallWatch.__new__(_StallWatch)
    cdef RingBase first = rings[0]
    watch.rings = rings
    watch.kind = kind
    cells = "reply cells" if rf_pool_ring_inode(first.handle) != 0 else "slots"
    slots = sum([(<RingBase>ring).slots for ring in rings])
    watch.stall = stall.RingStall(first.name, operation, f"{slots} {cells}")
    return watch


cdef bint watches_stalls(while_waiting) except -1:
    """Does the caller's own callable watch for stalls?"""
    return while_waiting is not None and getattr(while_waiting, "minds_stalls", False)
