# The values of records, checked before they are copied into slots. No number changes, and nothing is broadcast.
#
# An array or NumPy scalar must have the right dtype. Python's own numbers have none: a field accepts them if it holds
# them unchanged. (A float is rounded to the nearest number of the field, as 0.1 in float32.)

cdef enum _Strictness:
    SAFE_DTYPE  # a dtype that NumPy casts "safe"
    SAME_DTYPE  # the field's dtype, in either byte order
    EXACT_DTYPE


cdef class _Destination:
    """The destination of a value: a field of a slot, of rows of slots, or their tags."""

    cdef _Layout layout
    cdef str ring_name
    cdef bint is_tags  # tags accept integers of any dtype, but none below 0

    cdef object refuse(self, reason):
        what = "tags" if self.is_tags else f"field {self.layout.name!r}"
        raise errors.RecordMismatch(f"ring {self.ring_name!r}, {what}: {reason}")

    cdef object array_of(self, value, _Strictness strictness):
        """Return the value as an array that NumPy can cast to the field without a change of numbers."""
        if has_dtype(value):
            array = self.as_array(value, None)
            self.check_dtype(array, strictness)
            return array
        self.check_numbers(value, 0)
        return self.as_array(value, self.layout.dtype)

    cdef object as_array(self, value, dtype):
        self.check_mask(value)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # numbers that would become infinite were refused before
                if dtype is not None and dtype.isbuiltin != 1:  # bfloat16 takes no large integers
                    return np.asarray(value, dtype=np.float64).astype(dtype)
                return np.asarray(value, dtype=dtype)
        except (TypeError, ValueError, OverflowError) as error:
            reason = error
        self.refuse(f"{value!r:.80} is no {self.layout.dtype.name}: {reason}")

    cdef int check_mask(self, value) except -1:
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            self.refuse("numbers of the value are masked, and a ring stores no mask. Fill them: value.filled(0).")
        return 0

    cdef int check_dtype(self, array, _Strictness strictness) except -1:
        """Refuse an array whose dtype the field does not accept."""
        cdef object ours = self.layout.dtype
        cdef object theirs = array.dtype
        if theirs == ours:
            return 0
        if self.is_tags and theirs.kind == "i":
            if (array < 0).any():
                self.refuse(f"the value has numbers below 0, and the ring holds {ours.name}.")
            return 0
        if strictness == SAME_DTYPE and theirs.newbyteorder("=") == ours:
            return 0
        if strictness != SAFE_DTYPE or not np.can_cast(theirs, ours, "safe"):
            self.refuse(
                f"the ring holds {ours.name}, the value is {theirs.name if theirs.isnative else theirs.str}. "
                f"Convert it with .astype({ours.name!r}).")
        # NumPy calls it safe, although float64 does not have every integer of 64 bits.
        if self.layout.number_rank > 1 and theirs.kind in "iu" and theirs.itemsize == 8:
            if (array > self.layout.exact_most).any() or (theirs.kind == "i" and (array < -self.layout.exact_most).any()):
                self.refuse(
                    f"the ring holds {ours.name}, the value is {theirs.name} and has integers beyond "
                    f"{self.layout.exact_most}, which {ours.name} rounds. Convert it with .astype({ours.name!r}) to round them.")
        return 0

    cdef int check_numbers(self, value, int depth) except -1:
        """Refuse Python's own numbers that the field would change, in nested lists too. Arrays in the lists have dtypes."""
        cdef object kind = type(value)
        if kind is float:
            return self.check_float(value, value)
        if kind is int:
            return self.check_integer(value)
        if kind is bool:
            return 0
        if kind is not list and kind is not tuple:
            if has_dtype(value):
                return self.check_dtype(self.as_array(value, None), SAFE_DTYPE)
            if isinstance(value, int):
                return self.check_integer(value)
            if isinstance(value, float):
                return self.check_float(value, value)
            if isinstance(value, complex):
                if self.layout.number_rank < 3:
                    self.refuse_kind(value, "complex", "numpy.real(value)")
                self.check_float(value, value.real)
                return self.check_float(value, value.imag)
            if not PySequence_Check(value) or isinstance(value, (str, bytes, Mapping)):
                self.refuse(
                    f"{value!r:.80} is {'a text' if isinstance(value, str) else type(value).__name__} and no "
                    f"{self.layout.dtype.name}. Give numbers, or an array of that dtype.")
        if depth > RF_MAX_RANK:
            self.refuse(f"lists are nested more than {RF_MAX_RANK} deep. Give an array of {self.layout.dtype.name}.")
        for item in value:
            self.check_numbers(item, depth + 1)
        return 0

    cdef object refuse_kind(self, value, kind, remedy):
        self.refuse(f"the ring holds {self.layout.dtype.name}, and {value!r:.80} is {kind}. Convert it with {remedy}.")

    cdef int check_float(self, value, double part) except -1:
        cdef _Layout layout = self.layout
        if layout.number_rank < 2:
            self.refuse_kind(value, "float64", f"numpy.asarray(value, {layout.dtype.name!r})")
        # A number a little above the largest one is rounded down to it.
        if (part > layout.largest or part < -layout.largest) and part - part == 0 and self.becomes_infinite(part):
            self.refuse_infinity(value)
        return 0

    cdef bint becomes_infinite(self, part) except -1:
        return not np.isfinite(self.as_array(part, self.layout.dtype))

    cdef object refuse_infinity(self, value):
        self.refuse(
            f"the ring holds {self.layout.dtype.name}, where {value!r:.80} (float64) would become infinite; its largest number is "
            f"{self.layout.largest:.6g}. Give less, or create the ring with a wider dtype.")

    cdef int check_integer(self, value) except -1:
        cdef _Layout layout = self.layout
        cdef int overflow = 0
        cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
        cdef double rounded = 0
        if layout.number_rank == 0:
            self.refuse_kind(value, "an integer", "bool(value)")
        if not overflow and layout.exact_least <= number <= layout.exact_most:
            return 0
        if layout.number_rank == 1:
            if not layout.least <= value <= layout.most:
                self.refuse(
                    f"the ring holds {layout.dtype.name}, and {value!r:.80} is out of its bounds, {layout.least} to "
                    f"{layout.most}. Give a number within them, or create the ring with a wider dtype.")
            return 0
        try:
            rounded = float(value)
        except OverflowError:
            self.refuse_infinity(value)
        self.check_float(value, rounded)
        if int(np.asarray(rounded, layout.dtype).astype(np.complex128).real) != value:
            self.refuse(
                f"the ring holds {layout.dtype.name}, which rounds the integer {value!r:.80}. Give float(value) to "
                "round it, or create the ring with a wider dtype.")
        return 0


cdef bint has_dtype(value) except -1:
    """Is the value an array, or an object that knows the dtype of its numbers?"""
    return isinstance(value, (np.ndarray, np.generic)) or (
        not isinstance(value, (int, float, str, bytes)) and (
            hasattr(value, "__array__") or hasattr(value, "__array_interface__") or PyObject_CheckBuffer(value)))


cdef _Destination destination_of(_Layout layout, str ring_name):
    cdef _Destination place = _Destination.__new__(_Destination)
    place.layout = layout
    place.ring_name = ring_name
    return place


cdef cnp.ndarray one_sample(_Layout layout, value, str ring_name, _Strictness strictness):
    """Return one sample as a dense array of the field's dtype, or refuse it."""
    cdef _Destination place = destination_of(layout, ring_name)
    cdef object array = place.array_of(value, strictness)
    if strictness == SAME_DTYPE and array.ndim and array.shape[1:] == layout.field.shape != array.shape:
        place.refuse(
            f"the ring holds samples of shape {layout.field.shape}, and these are {len(array)} rows of them. Ask for rows "
            "by predict_rows, submit_rows or apredict_rows, or give one row.")
    if array.shape != layout.field.shape:
        place.refuse(
            f"the ring holds samples of shape {layout.field.shape}, the value has shape {array.shape}. "
            "Reshape it, or create the ring for that shape.")
    return np.require(array, dtype=layout.dtype, requirements=["C", "A"])


cdef cnp.ndarray sample_rows(_Layout layout, value, str ring_name):
    """Return rows of samples, from an array or lists, as a dense array of the field's dtype, or refuse them."""
    cdef _Destination place = destination_of(layout, ring_name)
    cdef object array
    if not has_dtype(value):
        array = place.array_of(value, SAME_DTYPE)
    else:
        array = place.as_array(value, None)
    dtype = array.dtype.newbyteorder("=")
    if array.ndim == 0 or array.shape[1:] != layout.field.shape or dtype != layout.dtype:
        how_many = f"{len(array)} rows" if array.ndim else "rows"
        place.refuse(
            f"{array.dtype.name if array.dtype.isnative else array.dtype.str}{list(array.shape)} are no {how_many} of "
            f"{layout.field}. Convert, or reshape them.")
    return np.require(array, dtype=layout.dtype, requirements=["C", "A"])


cdef int assign(_Destination place, cnp.ndarray target, value) except -1:
    """Write a value into an array of a claim. The value has its exact shape, or is one number for all of it."""
    cdef bint is_array = isinstance(value, np.ndarray)
    cdef object array = value if is_array else place.array_of(value, SAFE_DTYPE)
    if array.ndim and array.shape != (<object>target).shape:
        place.refuse(
            f"the claim holds {place.layout.dtype.name} of shape {(<object>target).shape}, the value is "
            f"{array.dtype.name} of shape {array.shape}, and only a single number is broadcast. Reshape it, or repeat it by "
            "numpy.broadcast_to.")
    if is_array:
        place.check_mask(array)
        place.check_dtype(array, SAFE_DTYPE)
    target[...] = array
    return 0


cdef int assign_tags(cnp.ndarray target, values, str ring_name) except -1:
    cdef _Destination place = destination_of(TAG_LAYOUT, ring_name)
    place.is_tags = True
    return assign(place, target, values)


cdef _Layout TAG_LAYOUT = _Layout.__new__(_Layout)
TAG_LAYOUT.name = "tags"
TAG_LAYOUT.dtype = np.dtype(np.uint64)
learn_bounds(TAG_LAYOUT)
