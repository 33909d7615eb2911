# Ctrl-C, for threads that wait while the main thread is in foreign code.

cdef extern from "feed/interrupt.h" nogil:
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


cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) noexcept, void *argument)

cdef uint32_t seen_running = 0
cdef bint is_asked = False


cdef int note_that_it_runs(void *argument) noexcept:
    global seen_running, is_asked
    seen_running += 1
    is_asked = False
    return 0


def main_thread_runs():
    """How often the main thread was seen to run Python; it is asked to show itself once more.

    It does so between two of its instructions, behind handlers of signals that came before.
    """
    global is_asked
    if not is_asked:
        is_asked = Py_AddPendingCall(note_that_it_runs, NULL) == 0
    return seen_running
