# What segment.py asks of a segment that no ring has open.

def segment_is_owned(int fd):
    """Does a living process own the segment?"""
    cdef int owned = rf_segment_has_owner(fd)
    if owned < 0:
        raise OSError(errno, os.strerror(errno))
    return owned == 1


def condemn_segment(int fd):
    """Take the right to unlink an ownerless segment; False when another process has it."""
    cdef rf_status status = rf_segment_condemn(fd)
    if status == RF_SYSTEM:
        raise OSError(errno, os.strerror(errno))
    return status == RF_OK


def segment_is_condemned(int fd):
    """Has another process the right to unlink the segment?"""
    cdef int condemned = rf_segment_is_condemned(fd)
    if condemned < 0:
        raise OSError(errno, os.strerror(errno))
    return condemned == 1


def discard_segment(int fd):
    """Let go of a descriptor of a segment that no ring took over."""
    rf_segment_discard(fd)
