# Taking from the levels of a ring, and what one take is made of.

cdef int fill_take_request(rf_take_request *request, RingBase ring, max_rows, min_rows, linger) except -1:
    """Fill a request with checked arguments; its deadline and `patient` are the caller's to set."""
    memset(request, 0, sizeof(rf_take_request))
    request.max_rows = min(
        int_argument(max_rows, ring.name, "max_rows", 1, INT64_MAX), <int64_t>rf_ring_geometry(ring.handle).slots)
    request.min_rows = int_argument(min_rows, ring.name, "min_rows", 1, request.max_rows)
    request.linger_ns = nanoseconds_argument(linger, ring.name, "linger")
    request.dead_letters = 1
    request.unseen = ring.dead_letter_handlers is not None
    return 0


def take_first(tuple rings not None, max_rows, min_rows, timeout, linger, on_error, while_waiting):
    """Take from the first of several rings that has records; arguments and errors as for `RingBase.take`."""
    cdef rf_ring *handles[RF_MOST_LEVELS]
    cdef RingBase ring, first = rings[0]
    cdef rf_take_request request
    cdef rf_status status
    cdef _Call call
    cdef _Hold hold
    cdef _Wait wait = wait_to_take(first, rings, while_waiting)
    cdef bint releases = releases_on_error(on_error, first.name)
    memset(&call, 0, sizeof(call))
    for ring in rings:
        handles[call.level_count] = ring.opened()
        call.level_count += 1
    fill_take_request(&request, first, max_rows, min_rows, linger)
    request.deadline_ns = deadline_ns(timeout, first.name)
    call.attempt = attempt_take_levels
    call.levels = handles
    call.request = &request
    while True:
        hold = _Hold.__new__(_Hold)
        call.lease = &hold.lease
        status = <rf_status>wait.run(&call)
        if status != RF_OK:
            fail_for_levels(rings, status, request.min_rows, timeout)
        ring = level_of(rings, hold)
        if not rf_lease_is_dead_letter(hold.lease):
            return batch_of(ring, hold, releases)
        ring.set_aside(hold)


cdef RingBase level_of(tuple rings, _Hold hold):
    cdef RingBase ring
    for ring in rings:
        if rf_lease_ring(hold.lease) == ring.handle:
            return ring
    raise AssertionError("a lease of another ring")


cdef int fail_for_levels(tuple rings, rf_status status, int wanted, timeout) except -1:
    """As `fail`; where a producer failed, for the level that it produced into."""
    cdef RingBase ring
    if status == RF_PRODUCER_FAILED:
        for ring in rings:
            if rf_ring_has_failed(ring.handle):
                fail(ring, status, 0, None)
    return fail(rings[0], status, wanted, timeout)
