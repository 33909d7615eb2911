# Feeds for native code: elements that TensorFlow's threads take by a feed's number, without Python.

cdef extern from "feed/feed.h" nogil:
    ctypedef struct rf_feed:
        pass

    ctypedef struct rf_feed_plan:
        uint32_t most, least, exact, ahead, shown, copies
        int64_t linger_ns, timeout_ns, turn_ns

    rf_feed *rf_feed_new(rf_ring *ring, const char *name, const rf_feed_plan *plan)
    uint64_t rf_feed_id(const rf_feed *feed)
    void rf_feed_end(rf_feed *feed)
    rf_status rf_feed_park(rf_feed *feed, rf_lease *lease)
    int rf_feed_unpark(rf_feed *feed)
    const void *rf_feed_table_get()

cdef extern from "feed/wait_hook.h" nogil:
    ctypedef enum rf_answer:
        RF_GO_ON
        RF_ASK_AGAIN
        RF_GIVE_NOTHING
        RF_STOP
        RF_FAIL

    ctypedef rf_answer rf_attendant(uint64_t id, int interrupted, int stalled) noexcept
    void rf_set_attendant(rf_attendant *attendant)
    void rf_feeds_stop()
    uint32_t rf_feeds_attending()

GO_ON, ASK_AGAIN, GIVE_NOTHING, STOP, FAIL = RF_GO_ON, RF_ASK_AGAIN, RF_GIVE_NOTHING, RF_STOP, RF_FAIL

cdef object asked = None
cdef object asked_by_main_thread = None

cdef rf_answer attend(uint64_t id, int interrupted, int stalled) noexcept with gil:
    cdef rf_answer answer
    try:
        return asked(id, interrupted != 0, stalled != 0)
    except KeyboardInterrupt:  # this is the main thread: raised once more, where the program can catch it
        answer = asked_by_main_thread()
        PyErr_SetInterrupt()
        return answer


def set_attendant(attendant, in_main_thread):
    """Have Python functions called when a thread waits for an element and something is odd.

    ``attendant(id, interrupted, stalled)`` returns one of the answers above. So does ``in_main_thread()``, which is
    called instead of what the first had to say when a KeyboardInterrupt came out of it.
    """
    global asked, asked_by_main_thread
    asked, asked_by_main_thread = attendant, in_main_thread
    rf_set_attendant(attend)


def stop_feeds():
    """End every feed's wait, for good. Returns whether a thread is still asking the attendant."""
    rf_feeds_stop()
    return rf_feeds_attending() != 0


def feed_table_address():
    """Where a shared object that is not linked with this one finds the feeds."""
    return <size_t>rf_feed_table_get()


@cython.final
cdef class NativeFeed:
    """A ring with a plan, known to native code by a number as long as this object lives.

    Rows and seconds as in `ringfeed.tf.dataset`; `exact` and `shown` may be 0, `timeout` None. A turn that is idle for
    `turn` seconds ends; 0 makes it endless. With `ahead` an element that is dropped before it was delivered goes back.
    With `copies` elements have memory of their own.
    """

    cdef rf_feed *feed
    cdef object __weakref__

    def __init__(self, RingBase ring not None, most, least, exact, bint ahead, shown, linger, timeout, turn,
                 bint copies=False):
        cdef rf_feed_plan plan
        if self.feed != NULL:
            raise TypeError("a feed is made once.")
        memset(&plan, 0, sizeof(plan))
        plan.most, plan.least, plan.exact, plan.shown = most, least, exact, shown
        plan.ahead, plan.copies = ahead, copies
        plan.linger_ns = <int64_t>(min(linger, 1e9) * 1e9)
        plan.timeout_ns = -1 if timeout is None else <int64_t>(min(timeout, 9e9) * 1e9)
        plan.turn_ns = <int64_t>(turn * 1e9)
        cdef rf_ring *handle = ring.opened()
        if rf_ring_is_retired(handle):
            fail(ring, RF_CLOSED, 0, None)
        self.feed = rf_feed_new(handle, ring.name.encode(), &plan)
        if self.feed == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.feed != NULL:
            rf_feed_end(self.feed)

    @property
    def id(self):
        """Its number, which no other feed of this process ever has."""
        return rf_feed_id(self.feed)

    def park(self, Batch batch not None):
        """Lay a batch in: it is the next element. The batch may be released."""
        cdef rf_status status = rf_feed_park(self.feed, batch.held().lease)
        if status != RF_OK:
            fail(batch.ring, status, 0, None)

    def unpark(self):
        """Drop what was laid in and not fetched. Returns whether there was something."""
        return rf_feed_unpark(self.feed) != 0
