# Held slots, and arrays over them: each field has one layout, made once for a ring.

@cython.final
@cython.internal
cdef class _Hold:
    """A reference to a lease. Arrays over the lease's slots have it as their base."""

    cdef rf_lease *lease
    cdef bint is_claim  # the slots may still be written; only then are there `capsules`
    cdef bint is_read_only  # the claim has ended
    cdef list capsules  # of a claim; a library may not have consumed them yet
    cdef Py_ssize_t exporters  # how many DLPackViews refer to this hold

    def __dealloc__(self):
        if self.lease != NULL:
            rf_lease_drop(self.lease)


cdef class _Layout:
    """One field, in the form that the hot paths need."""

    cdef readonly object field
    cdef readonly str name
    cdef cnp.dtype dtype
    cdef int number_rank
    cdef object least  # of an integer field: its bounds
    cdef object most
    cdef double largest  # of a field of floats: its largest finite number
    cdef int64_t exact_least  # every integer between these two is one of its numbers
    cdef int64_t exact_most
    cdef uint32_t index
    cdef int rank
    cdef int64_t stride_bytes
    cdef bint is_padded
    # The two arrays of an earlier claim of one slot, for the next claim to use again (Claim.array). They have no memory.
    cdef cnp.ndarray spare_base
    cdef cnp.ndarray spare_array
    # Axis 0 has the rows.
    cdef cnp.npy_intp shape[RF_MAX_RANK + 1]
    cdef cnp.npy_intp strides[RF_MAX_RANK + 1]

    cdef object view(self, _Hold hold, rf_view kind):
        cdef cnp.npy_intp shape[RF_MAX_RANK + 1]
        cdef cnp.npy_intp strides[2]
        cdef void *data = rf_lease_data(hold.lease, self.index)
        cdef object array
        cdef int axis
        Py_INCREF(self.dtype)  # NewFromDescr takes a reference over
        if kind == RF_VIEW_SAMPLE:
            array = PyArray_NewFromDescr(
                cnp.ndarray, self.dtype, self.rank, &self.shape[1], &self.strides[1], data,
                cnp.NPY_ARRAY_WRITEABLE, None)
        elif kind == RF_VIEW_PADDED:
            shape[0] = rf_lease_rows(hold.lease)
            shape[1] = self.stride_bytes // self.dtype.itemsize
            strides[0] = self.stride_bytes
            strides[1] = self.dtype.itemsize
            array = PyArray_NewFromDescr(
                cnp.ndarray, self.dtype, 2, shape, strides, data, cnp.NPY_ARRAY_WRITEABLE, None)
        else:
            for axis in range(self.rank + 1):
                shape[axis] = self.shape[axis]
            shape[0] = rf_lease_rows(hold.lease)
            array = PyArray_NewFromDescr(
                cnp.ndarray, self.dtype, self.rank + 1, shape, self.strides, data, cnp.NPY_ARRAY_WRITEABLE, None)
        cnp.set_array_base(array, hold)
        return array

    cdef cnp.ndarray base_for(self, _Hold hold, rf_view kind, bint *is_spare):
        """The base of a claim's array: NumPy makes derived arrays refer to the base."""
        cdef cnp.ndarray base = self.spare_base
        is_spare[0] = kind == RF_VIEW_SAMPLE and base is not None
        if not is_spare[0]:
            return self.view(hold, kind)
        self.spare_base = None
        Py_INCREF(hold)
        (<PyArrayObject_fields *>base).base = <PyObject *>hold
        (<PyArrayObject_fields *>base).data = <char *>rf_lease_data(hold.lease, self.index)
        cnp.PyArray_ENABLEFLAGS(base, cnp.NPY_ARRAY_WRITEABLE)
        return base

    cdef bint is_as_made(self, cnp.ndarray array) noexcept:
        cdef int axis
        if <void *>cnp.PyArray_DESCR(array) != <void *>self.dtype or cnp.PyArray_NDIM(array) != self.rank:
            return False
        for axis in range(self.rank):
            if (cnp.PyArray_DIM(array, axis) != self.shape[axis + 1]
                    or cnp.PyArray_STRIDE(array, axis) != self.strides[axis + 1]):
                return False
        return True

    cdef int keep_spare(self, _Hold hold, cnp.ndarray base, cnp.ndarray array) except -1:
        """Keep a claim's array and its base for the next claim; no other object refers to them."""
        cdef PyArrayObject_fields *fields = <PyArrayObject_fields *>base
        if fields.weakreflist != NULL or (<PyArrayObject_fields *>array).weakreflist != NULL:
            return 0
        if not self.is_as_made(base) or not self.is_as_made(array):
            return 0  # the caller has given it another shape or dtype
        fields.base = NULL
        Py_DECREF(hold)
        self.spare_base = base
        self.spare_array = array
        return 0

    cdef object window(self, _Hold hold, const rf_ring *ring, uint32_t first, uint32_t rows):
        """Dense rows that begin at a row of the lease and may pass its end."""
        cdef cnp.npy_intp shape[RF_MAX_RANK + 1]
        cdef int rank = self.rank + 1, axis
        cdef uint32_t slot = (rf_lease_first(hold.lease) + first) % rf_ring_geometry(ring).slots
        cdef char *data = <char *>rf_ring_region(ring, self.index) + slot * self.stride_bytes
        cdef object array
        for axis in range(rank):
            shape[axis] = self.shape[axis]
        if self.is_padded:
            rank = 2
            shape[1] = self.stride_bytes // self.dtype.itemsize
        shape[0] = rows
        Py_INCREF(self.dtype)
        array = PyArray_NewFromDescr(
            cnp.ndarray, self.dtype, rank, shape, NULL, data, cnp.NPY_ARRAY_WRITEABLE, None)
        cnp.set_array_base(array, hold)
        return array

    cdef bint fits_rows(self, cnp.ndarray array, uint32_t rows) noexcept:
        """Does the array have at least these rows, each a dense sample of exactly this dtype?"""
        cdef int axis
        cdef cnp.npy_intp step = cnp.PyArray_ITEMSIZE(array)
        if cnp.PyArray_NDIM(array) != self.rank + 1 or cnp.PyArray_DIM(array, 0) < rows:
            return False
        for axis in range(self.rank, 0, -1):
            if cnp.PyArray_DIM(array, axis) != self.shape[axis] or (
                    cnp.PyArray_STRIDE(array, axis) != step and self.shape[axis] != 1):
                return False
            step *= self.shape[axis]
        if cnp.PyArray_STRIDE(array, 0) < 0:
            return False
        return <void *>cnp.PyArray_DESCR(array) == <void *>self.dtype or (<object>array).dtype == self.dtype

    cdef bint is_for(self, cnp.ndarray array, cnp.ndarray target) noexcept:
        """Does the array have exactly this dtype, and the shape of a target?"""
        cdef int axis
        if <void *>cnp.PyArray_DESCR(array) != <void *>self.dtype or cnp.PyArray_NDIM(array) != cnp.PyArray_NDIM(target):
            return False
        for axis in range(cnp.PyArray_NDIM(array)):
            if cnp.PyArray_DIM(array, axis) != cnp.PyArray_DIM(target, axis):
                return False
        return True

    cdef bint fits(self, cnp.ndarray array) noexcept:
        """Is the array one dense sample of exactly this dtype?"""
        cdef int axis
        if cnp.PyArray_NDIM(array) != self.rank:
            return False
        for axis in range(self.rank):
            if cnp.PyArray_DIM(array, axis) != self.shape[axis + 1]:
                return False
        return <void *>cnp.PyArray_DESCR(array) == <void *>self.dtype and PyArray_ISCARRAY_RO(array)


cdef int learn_bounds(_Layout layout) except -1:
    """Learn which numbers a dtype can hold."""
    cdef object dtype = layout.dtype
    layout.number_rank = NUMBER_RANKS.get(dtype.kind, 2)  # bfloat16 has no kind of its own
    if layout.number_rank == 1:
        bounds = np.iinfo(dtype)
        layout.least, layout.most = int(bounds.min), int(bounds.max)
        layout.exact_least, layout.exact_most = layout.least, min(layout.most, INT64_MAX)
    elif layout.number_rank > 1:
        layout.largest, layout.exact_most = FLOAT_BOUNDS[dtype.name]
        layout.exact_least = -layout.exact_most
    return 0


cdef _Layout make_layout(rf_field *described, uint32_t index):
    cdef _Layout layout = _Layout.__new__(_Layout)
    cdef int axis
    layout.index = index
    layout.name = described.name.decode("utf-8", "replace")
    layout.dtype = dtype_from_code(described.dtype)
    learn_bounds(layout)
    layout.rank = described.rank
    layout.stride_bytes = described.stride_bytes
    layout.is_padded = described.stride_bytes != described.sample_bytes
    layout.strides[0] = described.stride_bytes
    cdef cnp.npy_intp step = layout.dtype.itemsize
    for axis in range(layout.rank, 0, -1):
        layout.shape[axis] = described.shape[axis - 1]
        layout.strides[axis] = step
        step *= layout.shape[axis]
    layout.field = Field(layout.name, tuple([layout.shape[axis + 1] for axis in range(layout.rank)]), layout.dtype)
    return layout


cdef fill_geometry(rf_geometry *geometry, spec):
    cdef int index, axis
    geometry.fields = len(spec)
    for index, field in enumerate(spec.values()):
        name = field.name.encode()
        strncpy(geometry.field[index].name, name, RF_NAME_BYTES - 1)
        geometry.field[index].dtype = field.dtype_code
        geometry.field[index].rank = len(field.shape)
        for axis in range(len(field.shape)):
            geometry.field[index].shape[axis] = field.shape[axis]
