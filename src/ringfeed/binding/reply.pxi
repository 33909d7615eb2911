# Replies: the answers to come to a client's requests.

PENDING, OUTPUTS, FAILED, LATE, STOPPED, ENGINE_DIED = (
    RF_PENDING, RF_OUTPUTS, RF_FAILED, RF_LATE, RF_STOPPED, RF_ENGINE_DIED)


cdef rf_status wait_for_cell(rf_lease *cells, uint32_t row, const rf_ring *pool, int64_t until, int64_t *check_at) noexcept nogil:
    """As `rf_cell_wait`, until the caller has to check for engines. For a few slices another client checks for it."""
    cdef int slice_number
    cdef rf_status status = RF_EMPTY
    for slice_number in range(MOST_SLICES_UNCHECKED):
        check_at[0] = next_check(pool)
        status = rf_cell_wait(cells, row, min(until, check_at[0]))
        if status != RF_EMPTY or until <= check_at[0] or not rf_another_reaps(pool):
            break
    return status


@cython.final
cdef class Reply:
    """The answers to come to requests that were made together. Dropping it withdraws those that are not answered."""

    cdef _Hold hold
    cdef readonly PoolBase pool
    cdef readonly RingBase ring
    cdef readonly uint32_t rows
    cdef uint64_t *links

    def __init__(self):
        raise TypeError("Replies are made by ReplyPool.ask.")

    def __dealloc__(self):
        free(self.links)

    cdef _Hold held(self):
        if self.hold is None:
            raise errors.RingFeedError(f"ring {self.ring.name!r}: this request was withdrawn, or its answer was read.")
        return self.hold

    cdef int keep_rows(self, uint32_t rows) except -1:
        """Give back the cells that no request names."""
        rf_cells_keep(self.hold.lease, rows)
        self.rows = rows
        return 0

    def withdraw(self):
        """Give the cells back: the client waits no more, or has read the answer. Views of outputs stay valid."""
        self.hold = None

    cdef int inspect(self, uint32_t row, rf_reply *reply) except -1:
        cdef rf_status status = rf_cell_inspect(self.held().lease, row, reply)
        if status != RF_OK:
            fail(self.ring, status, 0, None)
        return 0

    def done(self):
        """Is every row answered, with outputs or without?"""
        cdef rf_reply reply
        cdef uint32_t row
        for row in range(self.rows):
            self.inspect(row, &reply)
            if reply.outcome == RF_PENDING:
                return False
        return True

    def started(self):
        """Does an engine hold a row of it, or has an engine answered one?"""
        cdef rf_reply reply
        cdef uint32_t row
        for row in range(self.rows):
            self.inspect(row, &reply)
            if reply.held or reply.outcome != RF_PENDING:
                return True
        return False

    def wait(self, int64_t until, bint wait_for_engine):
        """Wait until every row is answered.

        Parameters
        ----------
        until : int
            CLOCK_MONOTONIC nanoseconds.
        wait_for_engine : bool
            Wait even if no engine lives: one may come.

        Returns
        -------
        bool
            False when the time was over first.

        Raises
        ------
        EngineDied
            No engine lives that could answer.
        """
        cdef _Hold hold = self.held()
        cdef rf_status status
        cdef int64_t check_at
        cdef uint32_t row = self.rows
        while row > 0:  # the last row first: the others are mostly answered then
            with nogil:
                status = wait_for_cell(hold.lease, row - 1, self.pool.cells.handle, until, &check_at)
            if status == RF_OK:
                row -= 1
            elif status == RF_EMPTY and until <= check_at:
                return False
            elif status == RF_AGAIN or status == RF_EMPTY:
                PyErr_CheckSignals()
                self.require_engine(wait_for_engine)
            else:
                fail(self.ring, status, 0, None)
        return True

    def require_engine(self, bint wait_for_engine):
        """Give back what dead engines held. Raise when no engine will answer.

        Raises
        ------
        EngineDied
            No engine lives (unless `wait_for_engine`), or the request was dropped with the engine that had taken it.
        """
        cdef rf_ring *ring = self.ring.opened()
        cdef bint is_left_alone = self.pool.no_engine_left(wait_for_engine)
        self.ring.inside += 1
        with nogil:
            rf_reap(ring)
        self.ring.left()
        if is_left_alone:
            self.give_up()
        self.check_if_dropped()

    def give_up(self):
        """Raise `EngineDied` if rows are not answered: no engine is left."""
        if not self.done():
            raise errors.EngineDied(
                f"ring {self.ring.name!r}: no engine is left that could answer: it died or was stopped. The request is "
                "withdrawn. Start an engine and ask again, or make the client with if_engine_dies='wait'.")

    def check_if_dropped(self):
        """Raise `EngineDied` if a row was dropped with the engine that had taken it (redeliver=False)."""
        cdef rf_ring *ring = self.ring.opened()
        cdef rf_reply reply
        cdef uint32_t row
        cdef bint gone
        if rf_ring_redelivers(ring):
            return
        for row in range(self.rows):
            gone = self.links[row] != 0 and rf_record_is_gone(ring, self.links[row])
            self.inspect(row, &reply)  # after the record was checked: an engine holds the cell before it releases the record
            if gone and reply.outcome == RF_PENDING and not reply.held:
                raise errors.EngineDied(
                    f"ring {self.ring.name!r}: the engine that had taken the request died, and the ring drops the records of "
                    "dead takers (redeliver=False). Ask again.")

    def outcome(self, uint32_t row):
        """Return the outcome of a row, and the text of an error."""
        cdef rf_reply reply
        cdef _Layout layout = <_Layout>self.pool.cells.layouts[len(self.pool.cells.layouts) - 1]
        cdef const char *characters
        if row >= self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        self.inspect(row, &reply)
        characters = <const char *>rf_lease_data(self.hold.lease, layout.index) + row * layout.stride_bytes
        return reply.outcome, characters[:reply.text_bytes].decode("utf-8", "replace")

    def outputs(self, bint copy, bint with_rows):
        """Return the outputs: arrays in their own memory, or views that keep the cells.

        Their shape is (rows, *shape), or with `with_rows` False the shape of the only row.
        """
        cdef _Hold hold = self.held()
        cdef list layouts = self.pool.cells.layouts
        cdef Py_ssize_t i
        cdef rf_view kind = RF_VIEW_ROWS if with_rows else RF_VIEW_SAMPLE
        cdef _Layout layout
        if self.pool.single_output:
            return output_of(<_Layout>layouts[0], hold, kind, copy)
        return {
            (<_Layout>layouts[i]).name: output_of(<_Layout>layouts[i], hold, kind, copy)
            for i in range(len(layouts) - 1)
        }


cdef object output_of(_Layout layout, _Hold hold, rf_view kind, bint copy):
    cdef object view = layout.view(hold, kind)
    return cnp.PyArray_NewCopy(view, cnp.NPY_CORDER) if copy else view


cdef tuple cnp_shape(cnp.ndarray array):
    return tuple([cnp.PyArray_DIM(array, axis) for axis in range(cnp.PyArray_NDIM(array))])
