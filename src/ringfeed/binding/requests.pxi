# Requests in an engine's hands: the rows of a batch, and the cells that wait for answers.

cdef list hold_requests(PoolBase pool, Batch batch):
    """As `PoolBase.hold` describes it."""
    cdef rf_ring *cells = pool.cells.opened()
    cdef rf_lease *lease = batch.held().lease
    cdef uint32_t rows = rf_lease_rows(lease), running
    cdef rf_held *held = <rf_held *>calloc(rows, sizeof(rf_held))
    if held == NULL or rf_ring_is_closed(cells):
        free(held)
        rf_lease_give_back(lease)
        if held == NULL:
            raise MemoryError()
        raise errors.RingClosed(f"ring {batch.ring.name!r}: this engine's replies were closed.")
    pool.cells.inside += 1
    with nogil:  # a redelivered record may have to wait until the engine that had it is dead
        running = rf_hold(cells, lease, held)
    pool.cells.left()
    if running == rows:
        return [make_requests(pool, batch, held)]
    return split_by_verdict(pool, batch, held, rows)


cdef list split_by_verdict(PoolBase pool, Batch batch, rf_held *held, uint32_t rows):
    """Split a batch into runs to answer, and release the runs of withdrawn and expired requests. Frees `held`."""
    cdef uint32_t first = 0, end, row
    cdef Requests requests
    cdef list found = []
    try:
        while first < rows:
            end = first + 1
            while end < rows and (held[end].verdict == RF_RUNNABLE) == (held[first].verdict == RF_RUNNABLE):
                end += 1
            rest = batch.split(end - first) if end < rows else None
            if held[first].verdict == RF_RUNNABLE:
                found.append(make_requests(pool, batch, copy_of(held + first, end - first)))
            else:
                for row in range(first, end):
                    pool.expired += held[row].verdict == RF_EXPIRED
                    pool.withdrawn += held[row].verdict == RF_WITHDRAWN
                batch.release()
            batch, first = rest, end
    except BaseException:
        for requests in found:
            requests.refuse_rest(RF_FAILED, "the engine failed")
        rf_answer_without(pool.cells.handle, held + first, rows - first, RF_FAILED, b"the engine failed", 17)
        raise
    finally:
        free(held)
    return found


cdef rf_held *copy_of(rf_held *held, uint32_t rows) except NULL:
    cdef rf_held *copy = <rf_held *>calloc(rows, sizeof(rf_held))
    if copy == NULL:
        raise MemoryError()
    memcpy(copy, held, rows * sizeof(rf_held))
    return copy


cdef Requests make_requests(PoolBase pool, Batch batch, rf_held *held):
    cdef Requests requests = Requests.__new__(Requests)
    requests.pool = pool
    requests.batch = batch
    requests.held = held
    requests.rows = rf_lease_rows(batch.held().lease)
    requests.left = requests.rows
    return requests


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the pool and the batch
cdef class Requests:
    """Rows in an engine's hands: a batch, and the cells that wait for answers.

    Dropping it unanswered gives the cells back: they wait for another engine.
    """

    cdef PoolBase pool
    cdef readonly Batch batch
    cdef rf_held *held
    cdef readonly uint32_t rows
    cdef uint32_t left

    def __init__(self):
        raise TypeError("Requests are made by ReplyPool.hold.")

    def __dealloc__(self):
        if self.held != NULL:
            if self.left:
                rf_let_go(self.pool.cells.handle, self.held, self.rows)
                self.pool.cells.retire_if_idle()
                if self.batch is not None and self.batch.hold is not None:
                    rf_lease_give_back(self.batch.hold.lease)
            free(self.held)

    def __len__(self):
        return self.rows

    cdef int check(self, uint32_t start, uint32_t stop) except -1:
        if start >= stop or stop > self.rows:
            raise IndexError(f"rows {start} to {stop} of {self.rows}")
        return 0

    cdef int settle(self, uint32_t start, uint32_t stop) except -1:
        memset(self.held + start, 0, (stop - start) * sizeof(rf_held))
        self.left -= min(stop - start, self.left)
        if self.left == 0:
            self.pool.cells.retire_if_idle()  # a closed pool waits until no request is in hand
        return 0

    def answer(self, outputs, uint32_t start, uint32_t stop):
        """Write outputs into the cells of rows `start` to `stop`, and wake their clients.

        Parameters
        ----------
        outputs : list of numpy.ndarray
            One for each output field, of shape (stop - start or more, *shape) and its dtype.

        Returns
        -------
        int
            How many were answered. The clients of the others have withdrawn them, or want no answer.

        Raises
        ------
        RecordMismatch
            An output does not have the shape or dtype of its field; nothing was answered.
        """
        cdef const void *sources[RF_MAX_FIELDS]
        cdef uint64_t strides[RF_MAX_FIELDS]
        cdef rf_ring *pool = self.pool.cells.opened()
        cdef rf_held *held = self.held + start
        cdef Py_ssize_t i, fields = len(self.pool.cells.layouts) - 1
        cdef uint32_t rows = stop - start, answered
        cdef _Layout layout
        cdef cnp.ndarray array
        self.check(start, stop)
        if len(outputs) != fields:
            raise errors.RecordMismatch(f"{len(outputs)} outputs were given for {fields} fields.")
        for i in range(fields):
            layout = <_Layout>self.pool.cells.layouts[i]
            array = outputs[i]
            if not layout.fits_rows(array, rows):
                raise errors.RecordMismatch(
                    f"output {layout.name!r} is {array.dtype.name}{list(cnp_shape(array))} for {rows} rows; its replies "
                    f"hold {layout.dtype.name}{[rows, *layout.field.shape]}.")
            sources[i] = cnp.PyArray_DATA(array)
            strides[i] = cnp.PyArray_STRIDE(array, 0)
        if self.pool.cells.copy_bytes * rows < COPY_WITHOUT_GIL_BYTES:
            answered = rf_answer_rows(pool, held, rows, sources, strides)
        else:
            self.pool.cells.inside += 1
            with nogil:
                answered = rf_answer_rows(pool, held, rows, sources, strides)
            self.pool.cells.left()
        self.settle(start, stop)
        return answered

    def refuse(self, rf_outcome outcome, str text, uint32_t start, uint32_t stop):
        """Answer rows `start` to `stop` with `FAILED` or `STOPPED` and a text, without outputs."""
        cdef bytes encoded = text.encode("utf-8", "replace")
        cdef const char *characters = encoded
        cdef uint32_t answered
        self.check(start, stop)
        answered = rf_answer_without(
            self.pool.cells.opened(), self.held + start, stop - start, outcome, characters, len(encoded))
        self.settle(start, stop)
        return answered

    def refuse_rest(self, rf_outcome outcome, text):
        """Answer all rows that are not answered yet, without outputs."""
        if self.left:
            self.refuse(outcome, text, 0, self.rows)
            self.left = 0

    def hand_on(self, Claim claim not None, uint32_t start):
        """Publish a claim on another ring as the same requests, from row `start` on; its taker answers them.

        The cells are given up first. If this engine is killed after that, the requests are in both rings; they are
        answered once.
        """
        cdef _Hold slots = claim.held()
        cdef rf_lease *batch = self.batch.held().lease
        cdef uint32_t rows = rf_lease_rows(slots.lease), row
        cdef uint64_t *links
        cdef uint64_t *tags
        cdef rf_status status
        self.check(start, start + rows)
        links = <uint64_t *>calloc(self.rows + rows, sizeof(uint64_t))
        if links == NULL:
            raise MemoryError()
        try:
            tags = links + rows
            rf_lease_tags(batch, tags)
            for row in range(rows):
                links[row] = rf_held_link(&self.held[start + row])
            rf_let_go(self.pool.cells.opened(), self.held + start, rows)
            claim.end(slots, "published")
            status = rf_publish_requests(slots.lease, rows, tags + start, links, False)
        finally:
            free(links)
        self.settle(start, start + rows)
        if status != RF_OK:
            fail(claim.ring, status, 0, None)

    def give_back(self):
        """Give unanswered requests back to the ring, for other engines, when the batch ends."""
        self.let_go()
        rf_lease_give_back(self.batch.held().lease)

    def let_go(self):
        """Give up the cells that were not answered: they wait for the next taker of their records."""
        rf_let_go(self.pool.cells.opened(), self.held, self.rows)
        self.settle(0, self.rows)
