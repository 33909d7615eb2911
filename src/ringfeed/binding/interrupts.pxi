# Ctrl-C for threads that wait while the main thread runs foreign code.

cdef extern from "feed/interrupt.h" nogil:
    void rf_watch_interrupts()
    void rf_unwatch_interrupts()
    uint32_t rf_interrupts()


@cython.final
cdef class InterruptWatch:
    """Counts SIGINT while it is alive; Python's own handler runs as before.

    It is for threads that wait while the main thread runs foreign code, where Python runs no handler.
    """

    cdef uint32_t before

    def __cinit__(self):
        rf_watch_interrupts()
        self.before = rf_interrupts()

    def __dealloc__(self):
        rf_unwatch_interrupts()

    @property
    def seen(self):
        """How many signals came since this watch was made."""
        return <uint32_t>(rf_interrupts() - self.before)


cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) noexcept, void *argument)

cdef uint32_t seen_running = 0
cdef bint is_asked = False


cdef int count_main_thread(void *argument) noexcept:
    global seen_running, is_asked
    seen_running += 1
    is_asked = False
    return 0


def main_thread_runs():
    """Return how often the main thread was seen to run Python, and ask it to show itself once more.

    It does so between two of its instructions, after the handlers of earlier signals.
    """
    global is_asked
    if not is_asked:
        is_asked = Py_AddPendingCall(count_main_thread, NULL) == 0
    return seen_running
