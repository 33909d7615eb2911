# The C core's replies as Cython sees them: csrc/include/replies.h, name by name.

cdef extern from "replies.h" nogil:
    ctypedef enum rf_outcome:
        RF_PENDING
        RF_OUTPUTS
        RF_FAILED
        RF_LATE
        RF_STOPPED
        RF_ENGINE_DIED

    ctypedef enum rf_waiter:
        RF_WAITER_NONE
        RF_WAITER_CLIENT

    ctypedef struct rf_reply:
        rf_outcome outcome
        uint32_t held
        uint32_t text_bytes
        int64_t asked_ns, held_ns, answered_ns

    uint64_t rf_cell_ask(rf_lease *cells, uint32_t row, int64_t answer_by_ns, rf_waiter waiter)
    void rf_cells_keep(rf_lease *cells, uint32_t rows)
    rf_status rf_cell_inspect(const rf_lease *cells, uint32_t row, rf_reply *reply)
    rf_status rf_cell_wait(rf_lease *cells, uint32_t row, int64_t deadline_ns)
    uint32_t rf_answers_prepare(rf_ring *pool)
    rf_status rf_answers_sleep(rf_ring *pool, uint32_t key, int64_t until_ns)
    void rf_answers_wake(rf_ring *pool)
    uint32_t rf_room_prepare(rf_ring *pool)
    rf_status rf_room_sleep(rf_ring *pool, uint32_t key, int64_t until_ns)
    uint32_t rf_pool_engines(rf_ring *pool)
    uint32_t rf_pool_all_engines(rf_ring *pool)
    uint32_t rf_pool_peers(rf_ring *pool, uint32_t from_)

    ctypedef struct rf_service:
        uint32_t from_ "from"
        uint32_t onward
        uint64_t model
        const char *name
        uint32_t name_bytes

    enum:
        RF_FROM_FIRST
        RF_NAME_ROOM

    void rf_pool_serve_as(rf_ring *pool, const rf_service *service)
    int rf_pool_has_other_model(rf_ring *pool, const rf_service *service, uint32_t *pid)
    uint32_t rf_pool_name(rf_ring *pool, uint32_t from_, char *name)
    int rf_record_is_gone(const rf_ring *ring, uint64_t link)

    ctypedef enum rf_verdict:
        RF_RUNNABLE
        RF_WITHDRAWN
        RF_EXPIRED

    ctypedef struct rf_held:
        uint64_t word
        uint32_t cell
        uint32_t verdict

    uint32_t rf_hold(rf_ring *pool, const rf_lease *batch, rf_held *held)
    uint32_t rf_answer_rows(
        rf_ring *pool, const rf_held *held, uint32_t rows, const void *const *outputs, const uint64_t *strides)
    uint32_t rf_answer_without(
        rf_ring *pool, const rf_held *held, uint32_t rows, rf_outcome outcome, const char *text, uint32_t text_bytes)
    uint64_t rf_held_link(const rf_held *held)
    void rf_let_go(rf_ring *pool, const rf_held *held, uint32_t rows)
