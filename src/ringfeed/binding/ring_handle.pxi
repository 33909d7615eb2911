# A ring that is open in this process: creating, attaching, closing, and its facts. It knows no claims and no batches.

cdef class RingHandle:
    """A ring that is open in this process; `RingBase` adds the records, `ringfeed.Ring` the names."""

    cdef rf_ring *handle
    cdef readonly str name
    cdef list layouts
    cdef list dead_letter_handlers  # of engines; None: there is none
    cdef readonly dict _by_name
    cdef object _spec  # made of the layouts when first asked for
    cdef uint64_t copy_bytes
    cdef bint is_nameless_
    cdef int inside  # threads in an operation on the handle without the GIL

    def __dealloc__(self):
        if self.handle != NULL:
            with nogil:  # a GPU's driver may take long to unregister page-locked memory
                rf_ring_close(self.handle)
                rf_ring_drop(self.handle)

    # -- opening -----------------------------------------------------------------------------------

    def _create(self, name, int fd, spec, slots, participants, redeliver, huge_pages, numa_node, producers=0, max_deliveries=0,
                ring_inode=0, user_data=0):
        """Make a ring of the empty object `fd`, and own the descriptor from now on."""
        cdef rf_options options
        cdef rf_geometry *geometry = <rf_geometry *>calloc(1, sizeof(rf_geometry))
        cdef rf_status status
        cdef bint nameless = rf_segment_free_bytes(fd) == INT64_MAX
        if geometry == NULL:
            close(fd)
            raise MemoryError()
        try:
            self.name = name
            options.slots = slots
            options.participants = participants
            options.redeliver = redeliver
            options.ring_inode = ring_inode
            options.user_data = user_data
            options.producers = producers
            options.max_deliveries = max_deliveries
            options.huge_pages = huge_pages
            options.numa_node = -1 if numa_node is None else numa_node
            fill_geometry(geometry, spec)
            status = rf_plan(&options, geometry)
            if status == RF_OK:
                check_for_memory(self, fd, geometry, slots, spec)
                with nogil:
                    if options.ring_inode != 0:
                        status = rf_pool_create(fd, &options, geometry, &self.handle)
                    else:
                        status = rf_ring_create(fd, &options, geometry, &self.handle)
                fd = -1
            if status != RF_OK:
                fail_to_create(self, status, geometry, slots, spec, nameless)
        finally:
            free(geometry)
            if fd >= 0:
                close(fd)
        self._learn()

    def _attach(self, name, int fd, bint pool=False):
        """Map an existing segment, and own the descriptor from now on. False while its creator initializes it."""
        cdef uint32_t version = rf_segment_version(fd)
        cdef rf_status status = rf_pool_attach(fd, &self.handle) if pool else rf_ring_attach(fd, &self.handle)
        self.name = name
        if status == RF_UNFINISHED:
            return False
        if status == RF_WRONG_VERSION:
            raise errors.LayoutMismatch(
                f"ring {name!r} has layout version {version}; this RingFeed reads version {RF_READS_VERSION}. "
                "Run the same version of RingFeed in every process.")
        if status == RF_OTHER_KIND:
            raise errors.LayoutMismatch(
                f"ring {name!r} is no pool of replies." if pool else
                f"ring {name!r} is damaged, or a pool of replies. Attach to the ring whose requests they answer.")
        if status != RF_OK:
            fail(self, status, 0, None)
        self._learn()
        return True

    cdef _learn(self):
        cdef rf_geometry *geometry = <rf_geometry *>rf_ring_geometry(self.handle)
        cdef uint32_t index
        self.layouts = [make_layout(&geometry.field[index], index) for index in range(geometry.fields)]
        self._by_name = {(<_Layout>layout).name: layout for layout in self.layouts}
        self.is_nameless_ = rf_segment_is_nameless(rf_ring_descriptor(self.handle)) == 1
        self.copy_bytes = 0
        for index in range(geometry.fields):
            self.copy_bytes += geometry.field[index].sample_bytes

    # -- using the handle --------------------------------------------------------------------------

    cdef rf_ring *opened(self) except NULL:
        if self.handle == NULL:
            raise errors.RingClosed("this ring was never opened; use Ring.create or Ring.attach.")
        return self.handle

    cdef rf_ring *in_use(self) except NULL:
        """The handle, unless it is closed and has given its place among the participants back."""
        cdef rf_ring *handle = self.opened()
        if rf_ring_is_retired(handle):
            fail(self, RF_CLOSED, 0, None)
        return handle

    cdef void left(self) noexcept:
        """A thread has left an operation without the GIL; it raised `inside` before."""
        self.inside -= 1
        self.retire_if_idle()

    cdef void retire_if_idle(self) noexcept:
        """Give the entry and the memory of a closed handle back, unless a thread is inside: that thread calls this again."""
        if self.inside == 0 and self.handle != NULL:
            rf_ring_retire(self.handle)

    cdef _Layout layout(self, name):
        cdef object layout = self._by_name.get(name)
        if layout is None:
            raise KeyError(f"ring {self.name!r} has no field {name!r}; its fields are {', '.join(self._by_name)}.")
        return <_Layout>layout

    def close(self):
        """Close this handle; closing it twice does no harm.

        Threads that wait on it get `RingClosed`. Batches and arrays that are alive stay valid. The entry and the memory
        of the handle are given back now, or with the last of them. When the owner closes, the ring is closed for all.
        """
        if self.handle != NULL:
            rf_ring_close(self.handle)
            self.retire_if_idle()

    def recover(self):
        """Give back what dead participants held. A process that waits does this by itself.

        Returns
        -------
        int
            How many participants were found dead.
        """
        cdef rf_ring *handle = self.opened()
        cdef uint32_t found
        self.inside += 1
        with nogil:
            found = rf_recover(handle)
        self.left()
        return found

    def _reap(self):
        """As `recover`, for participants that hold something; at most once in 50 ms, regardless of the caller."""
        cdef rf_ring *handle = self.opened()
        self.inside += 1
        with nogil:
            rf_reap(handle)
        self.left()

    def _holdings(self):
        """Return which participants hold slots: a list of `ringfeed.stall.Holding`, one for each of them."""
        cdef rf_ring *handle = self.opened()
        cdef uint32_t index, participants = rf_ring_geometry(handle).participants
        cdef rf_holding *found = <rf_holding *>calloc(participants, sizeof(rf_holding))
        if found == NULL:
            raise MemoryError()
        try:
            rf_ring_holdings(handle, found)
            return [
                stall.Holding(found[index].pid, found[index].ours != 0, found[index].claimed, found[index].held)
                for index in range(participants) if found[index].claimed or found[index].held
            ]
        finally:
            free(found)

    # -- facts -------------------------------------------------------------------------------------

    @property
    def closed(self):
        """Was this handle closed, or the ring by its owner?"""
        return self.handle == NULL or rf_ring_is_closed(self.handle) != 0

    @property
    def finished(self):
        """Was the ring finished? Records may still be in it."""
        return rf_ring_is_finished(self.opened()) != 0

    @property
    def is_owner(self):
        """Did this process create the ring?"""
        return self.handle != NULL and rf_ring_is_owner(self.handle) != 0

    @property
    def slots(self):
        """Number of slots, which `Ring.create` may have rounded up."""
        return rf_ring_geometry(self.opened()).slots

    @property
    def mirrored(self):
        """May a batch or claim pass the ring's end? False where the slots for that would have taken too much memory."""
        return rf_ring_is_mirrored(self.opened()) != 0

    @property
    def segment_bytes(self):
        """Size of the shared-memory segment in bytes."""
        return rf_ring_geometry(self.opened()).segment_bytes

    @property
    def spec(self):
        """The fields of a record: a `RecordSpec`."""
        self.opened()
        if self._spec is None:
            self._spec = RecordSpec.of([(<_Layout>layout).field for layout in self.layouts])
        return self._spec

    @property
    def redelivers(self):
        """Do rows that a dead taker held become READY again?"""
        return rf_ring_redelivers(self.opened()) != 0

    @property
    def max_deliveries(self):
        """How many takers may fail over a record before it becomes a dead letter; None: any number."""
        return rf_ring_max_deliveries(self.opened()) or None

    @property
    def descriptor(self):
        """The segment's file descriptor; `Ring.send` gives another process a copy of it.

        Closing a copy does no harm. If other code has closed the number itself (``os.closerange``), the ring goes on,
        and this property opens the segment anew. For a ring without a name few users may do that: then it raises
        `RingFeedError`.
        """
        cdef rf_ring *handle = self.opened()
        if rf_ring_is_retired(handle):
            raise errors.RingClosed(f"ring {self.name!r} is closed and has no descriptor any more. Attach it anew.")
        cdef int fd = rf_ring_descriptor(handle)
        if fd < 0:
            raise errors.RingFeedError(
                f"ring {self.name!r}: other code of this process has closed its descriptor (os.closerange?), and the "
                "segment cannot be opened again. The ring goes on working here. Send it before other code closes it.")
        return fd

    def _has_owner(self):
        """Does a living process own the segment?"""
        return rf_ring_has_owner(self.opened()) != 0

    def _identity(self):
        """Device and inode; also of a closed ring."""
        return rf_ring_device(self.opened()), rf_ring_inode(self.opened())

    def _has_no_name(self):
        return self.is_nameless_ != 0

    def _inode(self):
        return rf_ring_inode(self.opened())

    def _ring_inode(self):
        """Of a pool of replies: the inode of the ring whose requests they answer. 0 of a ring."""
        return rf_pool_ring_inode(self.opened())

    def _user_data(self):
        return rf_ring_user_data(self.opened())

    # -- memory ------------------------------------------------------------------------------------

    def _use_huge_pages(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        self.inside += 1
        with nogil:
            refused = rf_ring_use_huge_pages(handle)
        self.left()
        return refused

    def _lock_memory(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        self.inside += 1
        with nogil:
            refused = rf_ring_lock_memory(handle)
        self.left()
        return refused

    def _numa_errno(self):
        return rf_ring_numa_errno(self.opened())

    def _region_address(self, name):
        return <size_t>rf_ring_region(self.opened(), self.layout(name).index)
