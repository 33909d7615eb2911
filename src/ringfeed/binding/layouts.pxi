# Slots that are held, and arrays over them: one layout a field, made once for a ring.

@cython.final
@cython.internal
cdef class _Hold:
    """A reference to a lease. Arrays over the lease's slots have it as their base."""

    cdef rf_lease *lease

    def __dealloc__(self):
        if self.lease != NULL:
            rf_lease_drop(self.lease)


cdef class _Layout:
    """One field as the hot paths need it."""

    cdef readonly object field
    cdef readonly str name
    cdef cnp.dtype dtype
    cdef int number_rank
    cdef uint32_t index
    cdef int rank
    cdef int64_t stride_bytes
    cdef bint is_padded
    # Axis 0 is the batch's.
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

    cdef object window(self, _Hold hold, rf_ring *ring, uint32_t first, uint32_t rows):
        """Dense rows from one of the lease's on, which may pass its end."""
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
        """Has it at least so many rows, each a dense sample of the very dtype?"""
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

    cdef bint fits(self, cnp.ndarray array) noexcept:
        """Is it one sample, of the very dtype, dense?"""
        cdef int axis
        if cnp.PyArray_NDIM(array) != self.rank:
            return False
        for axis in range(self.rank):
            if cnp.PyArray_DIM(array, axis) != self.shape[axis + 1]:
                return False
        return <void *>cnp.PyArray_DESCR(array) == <void *>self.dtype and PyArray_ISCARRAY_RO(array)

    cdef cnp.ndarray convert(self, object value, str ring_name):
        """Bring a sample into the one form that can be copied, or say what does not fit."""
        cdef str where = f"ring {ring_name!r}, field {self.name!r}"
        cdef object array, plain
        cdef bint is_array = isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__")
        try:
            array = np.asarray(value)
            if not is_array and NUMBER_RANKS.get(array.dtype.kind, 9) <= self.number_rank:
                # Python's own numbers have no size: they take the field's, where they stay what they are.
                plain, array = array, np.asarray(value, dtype=self.dtype)
                if self.number_rank <= 1 and not (array == plain).all():  # NumPy 1 wraps around
                    raise OverflowError("out of its bounds")
        except (TypeError, ValueError, OverflowError) as error:
            raise errors.RecordMismatch(f"{where}: {value!r:.80} is no {self.dtype.name}: {error}") from None
        if array.dtype != self.dtype:
            if not is_array:
                raise errors.RecordMismatch(
                    f"{where}: the ring holds {self.dtype.name}, and {value!r:.80} is {array.dtype.name}. "
                    f"Convert it with numpy.asarray(value, {self.dtype.name!r}).")
            raise errors.RecordMismatch(
                f"{where}: the ring holds {self.dtype.name}, the value is "
                f"{array.dtype.name if array.dtype.isnative else array.dtype.str}. "
                f"Convert it with .astype({self.dtype.name!r}).")
        if array.shape != self.field.shape:
            raise errors.RecordMismatch(
                f"{where}: the ring holds samples of shape {self.field.shape}, the value has shape {array.shape}. "
                "Reshape it, or create the ring for that shape.")
        return np.require(array, dtype=self.dtype, requirements=["C", "A"])


cdef _Layout make_layout(rf_field *described, uint32_t index):
    cdef _Layout layout = _Layout.__new__(_Layout)
    cdef int axis
    layout.index = index
    layout.name = described.name.decode("utf-8", "replace")
    layout.dtype = dtype_from_code(described.dtype)
    layout.number_rank = NUMBER_RANKS.get((<object>layout.dtype).kind, 2)  # bfloat16 is no kind of its own
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
