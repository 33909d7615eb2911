# Segments that no ring has open: the questions of segment.py.

def segment_is_owned(int fd):
    """Does a living process own the segment?"""
    cdef int owned = rf_segment_has_owner(fd)
    if owned < 0:
        raise OSError(errno, os.strerror(errno))
    return owned == 1


def remove_segment(device, inode, path, bint spare_the_living):
    """Remove the path if it names that segment. None if another process holds the removal lock, or owns the segment."""
    cdef bytes encoded = os.fsencode(path)
    cdef const char *text = encoded
    cdef int removed
    cdef rf_status status = rf_segment_remove(device, inode, text, spare_the_living, &removed)
    if status == RF_SYSTEM:
        raise OSError(errno, os.strerror(errno))
    return None if status == RF_AGAIN else removed == 1


def inspect_segment(int fd):
    """Return whether a segment is RingFeed's, and its facts or None.

    The facts are (slots, fields, creator's process, living participants, inode of the ring that a pool answers or 0).
    """
    cdef rf_segment_view *view = <rf_segment_view *>calloc(1, sizeof(rf_segment_view))
    cdef rf_status status
    if view == NULL:
        raise MemoryError()
    try:
        status = rf_segment_inspect(fd, view)
        if status == RF_SYSTEM:
            raise OSError(errno, os.strerror(errno))
        if status == RF_NO_MEMORY:
            raise MemoryError()
        if status != RF_OK:
            return status != RF_NOT_A_RING, None
        fields = [make_layout(&view.geometry.field[index], index).field for index in range(view.geometry.fields)]
        return True, (view.geometry.slots, fields, view.creator_pid, view.participants, view.ring_inode)
    finally:
        free(view)


def segment_removal_is_locked(int fd):
    """Does another process hold the lock that allows to unlink the segment?"""
    cdef int locked = rf_segment_removal_is_locked(fd)
    if locked < 0:
        raise OSError(errno, os.strerror(errno))
    return locked == 1


def create_nameless_segment(label):
    """Return the descriptor of a new, empty segment that is in no file system."""
    cdef bytes encoded = os.fsencode(label)
    cdef int fd = rf_segment_create_nameless(encoded)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    return fd


def segment_is_nameless(int fd):
    """Was the segment made without a name?"""
    return rf_segment_is_nameless(fd) == 1
