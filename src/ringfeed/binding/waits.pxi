# Waits. C waits for one slice of about 50 ms at a time, without the GIL; between two slices Python checks for signals,
# for stalls, for living engines, and whether the caller ends the wait.

# One attempt at an operation, for at most a slice: RF_AGAIN says that the slice is over. `call` is a _Call.
ctypedef rf_status (*_Attempt)(void *call) noexcept nogil


cdef struct _Call:
    _Attempt attempt
    rf_ring *ring
    rf_ring **levels  # of attempt_take_levels
    uint32_t level_count
    uint32_t rows
    int64_t deadline_ns
    const void **sources
    uint64_t tag
    uint64_t cell
    uint64_t *link
    rf_take_request *request
    rf_lease **lease


cdef rf_status attempt_claim(void *arguments) noexcept nogil:
    cdef _Call *call = <_Call *>arguments
    return rf_claim(call.ring, call.rows, call.deadline_ns, call.lease)


cdef rf_status attempt_put(void *arguments) noexcept nogil:
    cdef _Call *call = <_Call *>arguments
    return rf_put(call.ring, call.sources, call.tag, call.deadline_ns)


cdef rf_status attempt_put_request(void *arguments) noexcept nogil:
    cdef _Call *call = <_Call *>arguments
    return rf_put_request(call.ring, call.sources, call.tag, call.cell, call.deadline_ns, call.link)


cdef rf_status attempt_take(void *arguments) noexcept nogil:
    cdef _Call *call = <_Call *>arguments
    return rf_take(call.ring, call.request, call.lease)


cdef rf_status attempt_take_levels(void *arguments) noexcept nogil:
    cdef _Call *call = <_Call *>arguments
    return rf_take_first(call.levels, call.level_count, call.request, call.lease)


@cython.final
@cython.internal
@cython.freelist(8)
cdef class _Wait:
    """A wait of this thread on a ring, or on the levels of one."""

    cdef RingBase ring
    cdef tuple levels  # None: `ring` alone
    cdef _Waits kind
    cdef str operation  # as a stall's warning names it; None: no stall is watched
    cdef _StallWatch stall_watch  # None before the second slice
    cdef PoolBase pool  # of a request: without an engine the wait ends
    cdef RingBase request_ring
    cdef bint wait_for_engine
    cdef object while_waiting

    cdef int run(self, _Call *call) except -1:
        """Attempt a call, slice after slice, and return its status; RF_EMPTY where `while_waiting` ended the wait."""
        cdef rf_status status = RF_AGAIN
        while status == RF_AGAIN:
            PyErr_CheckSignals()
            self.enter()
            with nogil:
                status = call.attempt(call)
            self.leave()
            if status == RF_AGAIN and self.is_ended_by_hook():
                return RF_EMPTY
        return status

    cdef void enter(self) noexcept:
        cdef RingBase ring
        if self.levels is None:
            self.ring.inside += 1
        else:
            for ring in self.levels:
                ring.inside += 1

    cdef void leave(self) noexcept:
        cdef RingBase ring
        if self.levels is None:
            self.ring.left()
        else:
            for ring in self.levels:
                ring.left()

    cdef bint is_ended_by_hook(self) except -1:
        """The hook of each slice: check what can end the wait, or warn of a stall."""
        if self.pool is not None:
            self.pool.require_engine(self.request_ring, self.wait_for_engine)
        if self.operation is not None:
            if self.stall_watch is None:
                rings = (self.ring,) if self.levels is None else self.levels
                self.stall_watch = new_stall_watch(rings, self.kind, self.operation)
            self.stall_watch.check()
        return self.while_waiting is not None and self.while_waiting()


cdef inline bint must_wait(rf_status status, int64_t deadline_ns) noexcept:
    """Did an attempt without a wait leave a reason to wait?"""
    return (status == RF_FULL and deadline_ns != 0) or status == RF_AGAIN


cdef _Wait wait_on(RingBase ring, _Waits kind, str operation):
    cdef _Wait wait = _Wait.__new__(_Wait)
    wait.ring = ring
    wait.kind = kind
    wait.operation = operation
    return wait


cdef _Wait wait_to_take(RingBase ring, tuple levels, while_waiting):
    cdef _Wait wait = wait_on(ring, WAITS_TO_TAKE, None if watches_stalls(while_waiting) else "a take")
    wait.levels = levels
    wait.while_waiting = while_waiting
    return wait


cdef int claim_by(_Wait wait, uint32_t rows, int64_t deadline_ns, _Hold hold) except -1:
    """Claim slots of the ring that is waited on. Returns a status."""
    cdef _Call call
    memset(&call, 0, sizeof(call))
    call.attempt = attempt_claim
    call.ring = wait.ring.handle
    call.rows = rows
    call.deadline_ns = deadline_ns
    call.lease = &hold.lease
    return wait.run(&call)
