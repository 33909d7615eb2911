# Ctrl-C, for threads that wait while the main thread is in foreign code.

cdef extern from "interrupt.h" nogil:
    void rf_watch_interrupts()
    void rf_unwatch_interrupts()
    uint32_t rf_interrupts()


@cython.final
cdef class InterruptWatch:
    """Counts SIGINT as long as it lives, beside Python's own handler, which runs as ever.

    For threads that wait while the main thread is in foreign code, where no handler can run.
    """

    cdef uint32_t before

    def __cinit__(self):
        rf_watch_interrupts()
        self.before = rf_interrupts()

    def __dealloc__(self):
        rf_unwatch_interrupts()

    @property
    def seen(self):
        """How many came since this watch began."""
        return <uint32_t>(rf_interrupts() - self.before)
