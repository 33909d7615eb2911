# Arguments in C types. Python's own numbers within bounds are converted here, because claims and takes are hot paths;
# every other value goes to arguments.py, which converts it or raises.

cdef int64_t int_argument(object value, str ring_name, str name, int64_t least, int64_t most) except -1:
    """An integer from `least` (not below 0) to `most`. INT64_MAX is no bound: a larger integer becomes INT64_MAX."""
    cdef int overflow = 0
    cdef int64_t number
    if type(value) is int:
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if not overflow and least <= number <= most:
            return number
    bound = None if most == INT64_MAX else most
    return min(arguments.check_int(value, f"ring {ring_name!r}: {name}", least, bound), INT64_MAX)


cdef uint64_t tag_argument(object value, str ring_name) except? 0:
    """64 bits of the caller's."""
    if value is 0:  # the default
        return 0
    if type(value) is int:
        try:
            return value
        except OverflowError:
            pass
    return arguments.check_int(value, f"ring {ring_name!r}: tag", 0, MAX_TAG)


cdef bint bool_argument(object value, str ring_name, str name) except -1:
    if value is False or value is True:
        return value is True
    return arguments.check_bool(value, f"ring {ring_name!r}: {name}")


cdef double seconds_argument(object value, str ring_name, str name, bint is_timeout=False) except -1:
    """Seconds, 0 or more. A timeout's message says that it may also be None."""
    cdef int overflow = 0
    cdef double seconds = -1
    if type(value) is float:
        seconds = value
    elif type(value) is int:
        seconds = PyLong_AsLongLongAndOverflow(value, &overflow)
    if seconds >= 0 and not overflow:  # NaN is not
        return seconds
    check = arguments.check_timeout if is_timeout else arguments.check_seconds
    return check(value, f"ring {ring_name!r}: {name}")


cdef int64_t nanoseconds_argument(object value, str ring_name, str name) except -1:
    """Seconds as nanoseconds, at most 30 years."""
    return <int64_t>(min(seconds_argument(value, ring_name, name), 1e9) * 1e9)


cdef int64_t deadline_ns(object timeout, str ring_name) except -1:
    """CLOCK_MONOTONIC time at which `timeout` seconds are over. 0: do not wait."""
    cdef double seconds
    if timeout is None:
        return RF_FOREVER
    seconds = seconds_argument(timeout, ring_name, "timeout", True)
    if seconds == 0:
        return 0
    return RF_FOREVER if seconds > 9e9 else rf_now_ns() + <int64_t>(seconds * 1e9)


# What becomes of a batch's records when an exception ends its `with` block.
cdef str GIVE_BACK = "give_back"
cdef str RELEASE = "release"


cdef bint releases_on_error(object on_error, str ring_name) except -1:
    """Does an exception release the batch, in place of giving it back?"""
    if on_error is GIVE_BACK:  # the default
        return False
    return arguments.check_choice(on_error, f"ring {ring_name!r}: on_error", (GIVE_BACK, RELEASE)) == RELEASE
