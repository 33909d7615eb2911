# Arguments from Python: checked, and turned into C. What is wrong is named, with its mend.

cdef int64_t whole(object value, str ring_name, str what, int64_t least, int64_t most) except -1:
    """`value` as a whole number from `least` (not below 0) to `most`."""
    cdef int overflow = 0
    cdef int64_t number = 0
    cdef bint is_whole = True
    try:
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
    except TypeError:
        is_whole = False
    if overflow:
        number = INT64_MAX if overflow > 0 else -1
    if not is_whole or not least <= number <= most:
        bounds = f"of at least {least}" if most == INT64_MAX else f"from {least} to {most}"
        raise (ValueError if is_whole else TypeError)(
            f"ring {ring_name!r}: {what} {value!r:.80}: give a whole number {bounds}.")
    return number


cdef uint64_t tag_bits(object value, str ring_name) except? 0:
    cdef bint is_whole = True
    if value is 0:  # the default, in the hottest path
        return 0
    try:
        return PyNumber_Index(value)
    except TypeError:
        is_whole = False
    except OverflowError:
        pass
    raise (ValueError if is_whole else TypeError)(
        f"ring {ring_name!r}: tag {value!r:.80}: give a whole number of 64 bits, from 0 to 2**64 - 1.")


cdef double seconds_from(object value, str ring_name, str what) except -1:
    cdef double seconds = -1
    cdef bint is_number = True
    try:
        seconds = value
    except TypeError:
        is_number = False
    except OverflowError:
        pass
    if not seconds >= 0:  # NaN is not, either
        forever = ", or None to wait for ever" if what == "timeout" else ""
        raise (ValueError if is_number else TypeError)(
            f"ring {ring_name!r}: {what} {value!r:.80}: give seconds, 0 or more{forever}.")
    return seconds


cdef int64_t deadline_ns(object timeout, str ring_name) except -1:
    """CLOCK_MONOTONIC time at which `timeout` seconds are over; 0 does not wait."""
    cdef double seconds
    if timeout is None:
        return RF_FOREVER
    seconds = seconds_from(timeout, ring_name, "timeout")
    if seconds == 0:
        return 0
    return RF_FOREVER if seconds > 9e9 else rf_now_ns() + <int64_t>(seconds * 1e9)
