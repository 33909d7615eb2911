# Feeds for native code: elements that TensorFlow's threads take by a feed's number, without Python.

cdef extern from "feed.h" nogil:
    ctypedef struct rf_feed:
        pass

    ctypedef struct rf_feed_plan:
        uint32_t max_rows, min_rows, exact_rows, shown_rows, tickets, copies
        int64_t linger_ns, timeout_ns, round_ns

    rf_feed *rf_feed_new(rf_ring *ring, const char *name, const rf_feed_plan *plan)
    uint64_t rf_feed_id(const rf_feed *feed)
    void rf_feed_end(rf_feed *feed)
    rf_status rf_feed_set_next(rf_feed *feed, rf_lease *lease)
    int rf_feed_drop_next(rf_feed *feed)
    const void *rf_feed_table_get()

    ctypedef enum rf_hook_result:
        RF_HOOK_GO_ON
        RF_HOOK_ASK_AGAIN
        RF_HOOK_GIVE_EMPTY
        RF_HOOK_STOP
        RF_HOOK_FAIL

    ctypedef rf_hook_result rf_wait_hook(uint64_t feed_id, int interrupted, int stalled) noexcept
    void rf_set_wait_hook(rf_wait_hook *hook)
    void rf_feeds_stop()
    uint32_t rf_wait_hook_calls()

GO_ON, ASK_AGAIN, GIVE_EMPTY = RF_HOOK_GO_ON, RF_HOOK_ASK_AGAIN, RF_HOOK_GIVE_EMPTY
STOP, FAIL = RF_HOOK_STOP, RF_HOOK_FAIL

cdef object python_hook = None
cdef object main_thread_hook = None

cdef rf_hook_result call_python_hook(uint64_t feed_id, int interrupted, int stalled) noexcept with gil:
    cdef rf_hook_result result
    try:
        return python_hook(feed_id, interrupted != 0, stalled != 0)
    except KeyboardInterrupt:  # in the main thread; raised once more, at a place where the program can catch it
        result = main_thread_hook()
        PyErr_SetInterrupt()
        return result


def set_wait_hook(hook, in_main_thread):
    """Set the Python functions that a thread calls when SIGINT comes or the ring is stalled while it waits.

    ``hook(feed_id, interrupted, stalled)`` returns one of the results above, and so does ``in_main_thread()``. A thread calls
    the second function when the first has raised KeyboardInterrupt, and uses its result.
    """
    global python_hook, main_thread_hook
    python_hook, main_thread_hook = hook, in_main_thread
    rf_set_wait_hook(call_python_hook)


def stop_feeds():
    """End every feed's wait, for good. Returns whether a thread is still inside the wait hook."""
    rf_feeds_stop()
    return rf_wait_hook_calls() != 0


def feed_table_address():
    """Return the address at which a shared object that is not linked with this one finds the feeds' functions."""
    return <size_t>rf_feed_table_get()


@cython.final
cdef class NativeFeed:
    """A ring with options, known to native code by a number as long as this object lives.

    Rows and seconds are those of `ringfeed.tf.dataset`; `exact` and `shown` may be 0, `timeout` None. A round that is
    idle for `round_seconds` ends; 0 makes it endless. With `tickets`, an element that is dropped before it was delivered
    returns to the ring. With `copies`, elements have memory of their own.
    """

    cdef rf_feed *feed
    cdef object __weakref__

    def __init__(self, RingBase ring not None, most, least, exact, bint tickets, shown, linger, timeout, round_seconds,
                 bint copies=False):
        cdef rf_feed_plan plan
        if self.feed != NULL:
            raise TypeError("a feed is made once.")
        memset(&plan, 0, sizeof(plan))
        plan.max_rows, plan.min_rows, plan.exact_rows, plan.shown_rows = most, least, exact, shown
        plan.tickets, plan.copies = tickets, copies
        plan.linger_ns = <int64_t>(min(linger, 1e9) * 1e9)
        plan.timeout_ns = -1 if timeout is None else <int64_t>(min(timeout, 9e9) * 1e9)
        plan.round_ns = <int64_t>(round_seconds * 1e9)
        self.feed = rf_feed_new(ring.in_use(), ring.name.encode(), &plan)
        if self.feed == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.feed != NULL:
            rf_feed_end(self.feed)

    @property
    def id(self):
        """The feed's number, which no other feed of this process ever has."""
        return rf_feed_id(self.feed)

    def set_next_batch(self, Batch batch not None):
        """Set a batch as the next element. The batch may be released."""
        cdef rf_status status = rf_feed_set_next(self.feed, batch.held().lease)
        if status != RF_OK:
            fail(batch.ring, status, 0, None)

    def drop_next_batch(self):
        """Drop the batch that was set and not fetched. Returns whether there was one."""
        return rf_feed_drop_next(self.feed) != 0
