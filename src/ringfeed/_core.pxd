# The C core as Cython sees it: csrc/include/, name by name.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "ringfeed.h" nogil:
    enum:
        RF_NAME_BYTES
        RF_MAX_RANK
        RF_MAX_FIELDS
        RF_MAX_SLOTS
        RF_MAX_PARTICIPANTS
        RF_READS_VERSION
        RF_FAILURE_BYTES
    const int64_t RF_FOREVER

    ctypedef enum rf_status:
        RF_OK
        RF_AGAIN
        RF_FULL
        RF_EMPTY
        RF_FINISHED
        RF_CLOSED
        RF_SLOT_LOST
        RF_INVALID
        RF_TOO_LARGE
        RF_NO_SPACE
        RF_NOT_A_RING
        RF_UNFINISHED
        RF_WRONG_VERSION
        RF_DAMAGED
        RF_CROWDED
        RF_NO_MEMORY
        RF_SYSTEM
        RF_PRODUCER_FAILED
        RF_NO_DESCRIPTOR
        RF_OTHER_KIND

    ctypedef struct rf_field:
        char name[64]
        uint32_t dtype
        uint32_t rank
        uint64_t shape[32]
        uint64_t sample_bytes
        uint64_t stride_bytes
        uint64_t region_offset
        uint64_t region_bytes

    ctypedef struct rf_geometry:
        uint32_t slots
        uint32_t fields
        uint32_t participants
        uint32_t page_bytes
        uint64_t segment_bytes
        rf_field field[64]

    ctypedef struct rf_options:
        uint32_t slots
        uint32_t participants
        uint32_t redeliver
        uint32_t huge_pages
        int32_t numa_node
        uint64_t user_data
        uint64_t ring_inode
        uint32_t producers
        uint32_t max_deliveries

    ctypedef struct rf_record:
        uint64_t tag
        int64_t claimed_ns
        int64_t published_ns
        int64_t taken_ns
        int64_t released_ns
        uint32_t producer
        uint32_t deliveries
        uint32_t failures

    ctypedef struct rf_take_request:
        uint32_t max_rows
        uint32_t min_rows
        int64_t deadline_ns
        int64_t linger_ns
        uint32_t dead_letters
        uint32_t unseen
        int64_t linger_until_ns
        int64_t enough_since_ns
        uint32_t lingers_at
        uint32_t patient

    ctypedef struct rf_counts:
        uint64_t published
        uint64_t discarded
        uint64_t taken
        uint64_t released
        uint64_t batches
        uint64_t redelivered
        uint64_t dropped
        uint64_t reclaimed
        uint64_t dead_letters
        uint64_t claim_wait_ns
        uint64_t take_wait_ns

    ctypedef struct rf_stats:
        uint32_t free
        uint32_t claimed
        uint32_t ready
        uint32_t taken
        uint32_t kept
        uint32_t participants
        rf_counts counts

    ctypedef struct rf_ring:
        pass
    ctypedef struct rf_lease:
        pass

    rf_status rf_plan(const rf_options *options, rf_geometry *geometry)
    rf_status rf_ring_create(int fd, const rf_options *options, const rf_geometry *geometry, rf_ring **ring)
    rf_status rf_ring_attach(int fd, rf_ring **ring)
    uint32_t rf_segment_version(int fd)
    int rf_segment_create_nameless(const char *label)
    int rf_segment_is_nameless(int fd)
    int64_t rf_segment_free_bytes(int fd)
    int rf_segment_has_owner(int fd)
    int rf_segment_removal_is_locked(int fd)
    rf_status rf_segment_remove(uint64_t device, uint64_t inode, const char *path, int spare_the_living, int *removed)

    ctypedef struct rf_segment_view:
        uint32_t layout_version
        uint32_t participants
        uint64_t creator_pid
        uint64_t ring_inode
        rf_geometry geometry

    rf_status rf_segment_inspect(int fd, rf_segment_view *view)
    void rf_ring_close(rf_ring *ring)
    int rf_ring_retire(rf_ring *ring)
    int rf_ring_is_retired(const rf_ring *ring)
    void rf_ring_drop(rf_ring *ring)
    const rf_geometry *rf_ring_geometry(const rf_ring *ring)
    int rf_ring_descriptor(const rf_ring *ring)
    int rf_ring_is_owner(const rf_ring *ring)
    int rf_ring_is_closed(const rf_ring *ring)
    int rf_ring_is_finished(const rf_ring *ring)
    int rf_ring_redelivers(const rf_ring *ring)
    int rf_ring_is_mirrored(const rf_ring *ring)
    uint32_t rf_ring_max_deliveries(const rf_ring *ring)
    uint32_t rf_participant_pid(const rf_ring *ring, uint32_t participant)
    uint64_t rf_ring_user_data(const rf_ring *ring)
    uint64_t rf_pool_ring_inode(const rf_ring *ring)
    uint64_t rf_ring_inode(const rf_ring *ring)
    uint64_t rf_ring_device(const rf_ring *ring)
    int rf_ring_has_owner(const rf_ring *ring)
    uint64_t rf_ring_creator_pid(const rf_ring *ring)
    void *rf_ring_region(const rf_ring *ring, uint32_t field)
    int rf_ring_use_huge_pages(rf_ring *ring)
    int rf_ring_lock_memory(rf_ring *ring)
    int rf_ring_numa_errno(const rf_ring *ring)

    # Functions come as addresses, which only C calls.
    ctypedef struct rf_pin_driver:
        void *context
        void *push
        void *pop
        void *host_register
        void *host_unregister
        void *allocate
        void *copy
        void *release

    ctypedef enum rf_pin_way:
        RF_PIN_NONE

    ctypedef struct rf_pin_report:
        rf_pin_way way
        int refusal

    rf_pin_report rf_ring_pin(rf_ring *ring, const rf_pin_driver *driver, unsigned flags)
    int rf_ring_unpin(rf_ring *ring)
    int rf_ring_is_pinned(rf_ring *ring)

    void rf_lease_retain(rf_lease *lease)
    void rf_lease_drop(rf_lease *lease)
    void rf_lease_give_back(rf_lease *lease)
    void rf_lease_fail(rf_lease *lease)
    rf_status rf_claim_copy(rf_lease *claim, uint32_t row, uint32_t rows, rf_lease **copy)
    void rf_set_apart(rf_lease *claim)
    uint32_t rf_lease_failures(const rf_lease *lease)
    int rf_lease_is_dead_letter(const rf_lease *lease)
    void rf_lease_show(rf_lease *lease, int shown)

    ctypedef struct rf_dead_letter:
        uint64_t tag
        uint32_t producer
        uint32_t failures
        uint32_t unsaid

    int rf_next_dead_letter(rf_ring *ring, rf_dead_letter *letter)
    rf_lease *rf_lease_split(rf_lease *batch, uint32_t rows)
    uint32_t rf_lease_references(const rf_lease *lease)
    const rf_ring *rf_lease_ring(const rf_lease *lease)
    uint32_t rf_lease_first(const rf_lease *lease)
    uint32_t rf_lease_rows(const rf_lease *lease)
    uint64_t rf_lease_link(const rf_lease *lease, uint32_t row)
    void *rf_lease_data(const rf_lease *lease, uint32_t field)
    void rf_lease_records(const rf_lease *lease, rf_record *records)
    void rf_lease_tags(const rf_lease *lease, uint64_t *tags)

    ctypedef enum rf_view:
        RF_VIEW_ROWS
        RF_VIEW_SAMPLE
        RF_VIEW_PADDED

    ctypedef struct rf_export_form:
        int versioned
        int read_only
        int copied

    void *rf_lease_export(rf_lease *lease, uint32_t field, rf_view view, const rf_export_form *form)
    void rf_export_make_read_only(void *tensor)
    void rf_export_delete(void *tensor, int versioned)

    rf_status rf_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, rf_lease **lease)
    void rf_claim_zero(rf_lease *claim)
    rf_status rf_publish(rf_lease *lease, uint32_t rows, const uint64_t *tags, int kept)
    rf_status rf_publish_requests(
        rf_lease *lease, uint32_t rows, const uint64_t *tags, const uint64_t *replies, int kept)
    rf_status rf_put(rf_ring *ring, const void *const *sources, uint64_t tag, int64_t deadline_ns)
    rf_status rf_put_request(
        rf_ring *ring, const void *const *sources, uint64_t tag, uint64_t reply, int64_t deadline_ns, uint64_t *link)

    ctypedef struct rf_block:
        uint32_t generation
        uint32_t turn

    rf_status rf_producing_begin(rf_ring *ring, int inside, rf_block *block)
    void rf_producing_fail(rf_ring *ring, rf_block block, const char *text, size_t bytes)
    void rf_producing_end(rf_ring *ring, rf_block block)
    int rf_ring_has_failed(const rf_ring *ring)
    uint32_t rf_ring_failure(const rf_ring *ring, char *text)
    uint32_t rf_ring_producers_wanted(const rf_ring *ring)
    uint64_t rf_ring_producers_entered(const rf_ring *ring)
    int rf_ring_has_ended(const rf_ring *ring)

    rf_status rf_take(rf_ring *ring, rf_take_request *request, rf_lease **lease)
    enum:
        RF_MOST_LEVELS
    rf_status rf_take_first(rf_ring *const *rings, uint32_t count, rf_take_request *request, rf_lease **lease)
    void rf_finish(rf_ring *ring)
    uint32_t rf_recover(rf_ring *ring)
    int64_t rf_patience_until(const rf_ring *ring)
    int rf_another_reaps(const rf_ring *ring)
    void rf_reap(rf_ring *ring)
    uint32_t rf_ring_ready(const rf_ring *ring)
    void rf_ring_stats(rf_ring *ring, rf_stats *stats)

    ctypedef struct rf_holding:
        uint32_t pid
        uint32_t ours
        uint32_t claimed
        uint32_t held

    void rf_ring_holdings(rf_ring *ring, rf_holding *holdings)
    int64_t rf_now_ns()

cdef extern from "replies.h" nogil:
    rf_status rf_pool_create(int fd, const rf_options *options, const rf_geometry *geometry, rf_ring **pool)
    rf_status rf_pool_attach(int fd, rf_ring **pool)
