# Asking: a client claims reply cells, then puts its records as requests that name the cells.

cdef _Wait request_wait(PoolBase pool, RingBase ring, RingBase request_ring, bint wait_for_engine, str operation):
    """A wait for room for a request; it ends with `EngineDied` when no engine is left."""
    cdef _Wait wait = wait_on(ring, WAITS_TO_CLAIM, operation)
    wait.pool = pool
    wait.request_ring = request_ring
    wait.wait_for_engine = wait_for_engine
    return wait


cdef Reply claim_cells(PoolBase pool, RingBase ring, uint32_t rows, int64_t deadline, timeout, bint wait_for_engine):
    """Claim cells for the answers to up to so many rows, and at least one."""
    cdef rf_ring *cells = pool.cells.opened()
    cdef Reply reply = Reply.__new__(Reply)
    cdef _Hold hold = _Hold.__new__(_Hold)
    cdef rf_status status = rf_claim(cells, rows, 0, &hold.lease)
    if must_wait(status, deadline):
        wait = request_wait(pool, pool.cells, ring, wait_for_engine, "a request")
        status = <rf_status>claim_by(wait, rows, deadline, hold)
    if status == RF_FULL:
        raise errors.RingFull(
            f"ring {ring.name!r}: {'every' if timeout == 0 else f'after {timeout:g} s every'} one of its "
            f"{rf_ring_geometry(cells).slots} reply cells is in use. Release answers that are views, wait for "
            "requests under way, or start the engine with more reply_cells.", resource="reply_cells")
    if status != RF_OK:
        fail(pool.cells, status, 1, timeout)
    reply.hold = hold
    reply.pool = pool
    reply.ring = ring
    reply.rows = rf_lease_rows(hold.lease)
    reply.links = <uint64_t *>calloc(reply.rows, sizeof(uint64_t))
    if reply.links == NULL:
        raise MemoryError()
    return reply


cdef Reply ask_record(
        PoolBase pool, RingBase ring, record, tag, int64_t answer_by, timeout, bint notify, bint wait_for_engine):
    """As `PoolBase.ask` describes it."""
    cdef const void *sources[RF_MAX_FIELDS]
    cdef rf_status status
    cdef Reply reply
    cdef _Call call
    memset(&call, 0, sizeof(call))
    call.attempt = attempt_put_request
    call.ring = ring.opened()
    call.tag = tag_argument(tag, ring.name)
    call.sources = sources
    cdef int64_t deadline = deadline_ns(timeout, ring.name)
    cdef object kept = ring.sources_of(record, sources, SAME_DTYPE)  # alive until the record is copied
    reply = claim_cells(pool, ring, 1, deadline, timeout, wait_for_engine)
    call.cell = rf_cell_ask(reply.hold.lease, 0, answer_by, RF_WAITER_CLIENT if notify else RF_WAITER_NONE)
    call.link = &reply.links[0]
    status = ring.attempt_without_wait(&call)
    if must_wait(status, deadline):
        call.deadline_ns = deadline
        status = <rf_status>request_wait(pool, ring, ring, wait_for_engine, None).run(&call)
    if status != RF_OK:
        fail(ring, status, 1, timeout)
    return reply


cdef Reply ask_for_rows(
        PoolBase pool, RingBase ring, list arrays, uint32_t start, uint32_t stop, tag, int64_t answer_by, timeout,
        bint notify, bint wait_for_engine):
    """As `PoolBase.ask_rows` describes it."""
    cdef int64_t deadline = deadline_ns(timeout, ring.name)
    cdef Reply reply = claim_cells(pool, ring, stop - start, deadline, timeout, wait_for_engine)
    cdef Claim claim
    cdef _Hold slots
    cdef uint32_t rows, row
    cdef uint64_t[::1] tags
    cdef rf_status status
    cdef uint64_t *cells = <uint64_t *>calloc(reply.rows, sizeof(uint64_t))
    if cells == NULL:
        raise MemoryError()
    try:
        for row in range(reply.rows):  # from here on the cells count the wait for slots
            cells[row] = rf_cell_ask(reply.hold.lease, row, answer_by, RF_WAITER_CLIENT if notify else RF_WAITER_NONE)
        claim = claim_for_requests(pool, ring, reply.rows, deadline, timeout, wait_for_engine)
        slots = claim.held()
        rows = rf_lease_rows(slots.lease)
        if rows < reply.rows:
            reply.keep_rows(rows)
        for i in range(len(ring.layouts)):
            claim.array((<_Layout>ring.layouts[i]).name, RF_VIEW_ROWS)[...] = arrays[i][start:start + rows]
        for row in range(rows):
            reply.links[row] = rf_lease_link(slots.lease, row)
        tags = np.full(rows, tag_argument(tag, ring.name), np.uint64)
        claim.end(slots, "published")
        status = rf_publish_requests(slots.lease, rows, &tags[0], cells, False)
    finally:
        free(cells)
    if status != RF_OK:
        fail(ring, status, 1, timeout)
    return reply


cdef Claim claim_for_requests(
        PoolBase pool, RingBase ring, uint32_t rows, int64_t deadline, timeout, bint wait_for_engine):
    """As `Ring.claim`, as long as an engine lives."""
    cdef rf_ring *handle = ring.opened()
    cdef Claim claim = Claim.__new__(Claim)
    cdef _Hold hold = _Hold.__new__(_Hold)
    cdef rf_status status = rf_claim(handle, rows, 0, &hold.lease)
    if must_wait(status, deadline):
        status = <rf_status>claim_by(request_wait(pool, ring, ring, wait_for_engine, None), rows, deadline, hold)
    if status != RF_OK:
        fail(ring, status, 1, timeout)
    hold.is_claim = True
    claim.hold = hold
    claim.ring = ring
    claim.kind = RF_VIEW_ROWS
    return claim
