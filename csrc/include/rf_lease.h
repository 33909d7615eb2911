/*
 * Leases: the run of slots that a process holds, its records, and its export as a tensor.
 */
#ifndef RINGFEED_LEASE_H
#define RINGFEED_LEASE_H

#include "rf_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A lease is a run of slots that this process holds: claimed for writing, or taken for reading. It is counted.
 * Dropping the last reference gives the slots back, on any thread, with atomics only: an unpublished claim is
 * discarded, a batch is released.
 */
typedef struct rf_lease rf_lease;

RF_API void rf_lease_retain(rf_lease *lease);
RF_API void rf_lease_drop(rf_lease *lease);
/* The rows of a batch become READY again when its last reference is dropped, because no taker has looked at them. This holds
 * even if the rows of dead takers are dropped (`redeliver`). The rows count as delivered once more, without a failure. Of a
 * claim: no effect. */
RF_API void rf_lease_give_back(rf_lease *lease);
/* The same, and this taker has failed over the rows, as if it had died: if the rows of the
 * dead are dropped, so are these. */
RF_API void rf_lease_fail(rf_lease *lease);
/* How many takers have failed over the rows of a batch before. A row over which some did comes
 * alone. */
RF_API uint32_t rf_lease_failures(const rf_lease *lease);
/* Did so many takers fail that its one row is to be set aside (rf_options.max_deliveries)? Its
 * release counts as that. */
RF_API int rf_lease_is_dead_letter(const rf_lease *lease);
/* Of a batch of one row that was taken `unseen`: from now on, or no longer, this taker fails
 * over it by dying. Of several rows: no effect, because over those it always does. */
RF_API void rf_lease_show(rf_lease *lease, int shown);
/* Cut a batch in two: it keeps its first `rows`, and the returned lease has the others. NULL:
 * no memory, or it is not a batch of more rows that this reference holds alone. */
RF_API rf_lease *rf_lease_split(rf_lease *batch, uint32_t rows);
RF_API uint32_t rf_lease_references(const rf_lease *lease);
RF_API const rf_ring *rf_lease_ring(const rf_lease *lease);
RF_API uint32_t rf_lease_first(const rf_lease *lease);
RF_API uint32_t rf_lease_rows(const rf_lease *lease);
/* Which record a row is, for rf_record_is_gone. */
RF_API uint64_t rf_lease_link(const rf_lease *lease, uint32_t row);
/* Address of the lease's first sample of a field. */
RF_API void *rf_lease_data(const rf_lease *lease, uint32_t field);

/* What a slot says of its record; times are CLOCK_MONOTONIC nanoseconds, 0 = not yet. */
typedef struct rf_record {
    uint64_t tag;
    int64_t claimed_ns;
    int64_t published_ns;
    int64_t taken_ns;
    int64_t released_ns; /* when the slot was last given back, before this record */
    uint32_t producer;   /* participant that wrote it */
    /* To takers, 255 at most. More than 1: an earlier taker died, or gave it back. */
    uint32_t deliveries;
    uint32_t failures; /* how many of these takers died or failed over it */
} rf_record;

RF_API void rf_lease_records(const rf_lease *lease, rf_record *records);
RF_API void rf_lease_tags(const rf_lease *lease, uint64_t *tags);

typedef enum rf_view {
    RF_VIEW_ROWS = 0,   /* [rows, *shape]: strided where samples are padded */
    RF_VIEW_SAMPLE = 1, /* [*shape]: the first row alone */
    RF_VIEW_PADDED = 2, /* [rows, stride in elements]: dense, padding included */
} rf_view;

/* How a tensor is handed over. An unversioned one cannot say that it is read-only, nor that it
 * is a copy. */
typedef struct rf_export_form {
    int versioned; /* a DLManagedTensorVersioned (DLPack 1.0), else the older DLManagedTensor */
    int read_only; /* the consumer must not write into it */
    int copied;    /* memory of its own, without a slot; always writable */
} rf_export_form;

/* Export a field of the lease as a DLPack tensor on the CPU. It holds a reference to the lease
 * unless it is copied. Its deleter may run on any thread. NULL: no memory. */
RF_API void *rf_lease_export(rf_lease *lease, uint32_t field, rf_view view,
                             const rf_export_form *form);
/* Mark a versioned tensor that no consumer has taken over as read-only. */
RF_API void rf_export_make_read_only(void *tensor);
/* Call the tensor's own deleter, for a tensor that no consumer has taken over. */
RF_API void rf_export_delete(void *tensor, int versioned);

#ifdef __cplusplus
}
#endif
#endif
