# The loop `for batch in ring.batches(...)`: how its end releases the last batch, or gives it back.

cdef extern from "Python.h":
    # As in cpython.pycapsule, but without a check for errors: an exception may be propagating.
    void *context_of "PyCapsule_GetContext" (object capsule) noexcept


cdef void end_of_loop(object witness) noexcept:
    """A loop over batches has ended. Only a destructor in C sees the exception that ended it, if one is propagating."""
    cdef PyObject *kind
    cdef PyObject *error
    cdef PyObject *traceback
    cdef PyObject *context = <PyObject *>context_of(witness)
    cdef Batch batch
    if context == NULL:
        return
    PyErr_Fetch(&kind, &error, &traceback)
    batch = <Batch>context
    Py_DECREF(batch)  # the witness's own
    batch.end_with(<object>kind if kind != NULL else None)
    batch = None
    PyErr_Restore(kind, error, traceback)


@cython.final
cdef class Batches:
    """An iterator over the batches of a ring, made by `Ring.batches`."""

    cdef object take  # None: the loop has ended
    cdef object witness  # of the batch that the loop has: see end_of_loop

    def __init__(self, take):
        self.take = take
        self.witness = PyCapsule_New(<void *>self, b"ringfeed.loop", end_of_loop)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Batch batch
        self.done()
        if self.take is None:
            raise StopIteration
        try:
            batch = self.take()
        except errors.RingFinished:
            self.take = None
            raise StopIteration from None
        Py_INCREF(batch)
        PyCapsule_SetContext(self.witness, <void *>batch)
        return batch

    cdef int done(self) except -1:
        """The loop asks for the next batch: release the one that it has."""
        cdef void *context = context_of(self.witness)
        cdef Batch batch
        if context != NULL:
            PyCapsule_SetContext(self.witness, NULL)
            batch = <Batch>context
            Py_DECREF(batch)
            batch.release()
        return 0

    def close(self):
        """Release the batch that the loop has, and end the loop."""
        self.take = None
        self.done()
