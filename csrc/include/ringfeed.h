/*
 * RingFeed: a lock-free ring of fixed-shape tensor slots in POSIX shared memory.
 *
 * This is the whole public face of the C core. It knows no Python and no TensorFlow.
 *
 * A ring has `slots` slots. Each slot holds one record: one sample of every named field. A
 * producer claims free slots, writes the samples in place and publishes them; a taker takes the
 * oldest run of published slots as one contiguous batch and releases it when it has read it.
 *
 *     FREE --claim--> CLAIMED --publish--> READY --take--> TAKEN --release--> FREE (epoch + 1)
 *
 * Every function returns an rf_status; none prints, exits or raises a signal. Functions that may
 * wait come back with RF_AGAIN every RF_SLICE_NS and after every signal, so that the caller can
 * run its own signal handlers; it then calls again with the same request.
 */
#ifndef RINGFEED_H
#define RINGFEED_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RF_API __attribute__((visibility("default")))

/* The layout of segments that this library makes and reads. */
#define RF_READS_VERSION 6u

enum {
    RF_NAME_BYTES = 64,         /* a field's name with its closing NUL */
    RF_MAX_RANK = 32,           /* dimensions of a sample */
    RF_MAX_FIELDS = 64,         /* fields of a record */
    RF_MAX_SLOTS = 1 << 24,     /* a link names a slot in 24 bits */
    RF_MAX_PARTICIPANTS = 4095, /* a word names its owner in 12 bits; 0 is nobody */
    RF_ALIGNMENT = 64,          /* TensorFlow takes foreign memory as it is only from 64 bytes on */
    RF_FAILURE_BYTES = 4000,    /* of the text of a producer's error */
};

/* A wait returns to its caller at least this often. */
#define RF_SLICE_NS INT64_C(50000000)
/* Or, where it is patient and many others are, at least this often; after a signal at once. */
#define RF_MOST_PATIENCE_NS INT64_C(12500000000)
/* A deadline that never comes. */
#define RF_FOREVER INT64_MAX

typedef enum rf_status {
    RF_OK = 0,
    RF_AGAIN,         /* a slice of waiting is over, or a signal came: call again */
    RF_FULL,          /* no slot became free before the deadline */
    RF_EMPTY,         /* too few records were published before the deadline */
    RF_FINISHED,      /* the ring was finished and is drained */
    RF_CLOSED,        /* this handle was closed, or the owner closed or left the ring */
    RF_SLOT_LOST,     /* the claim was taken back: its owner had been found dead */
    RF_INVALID,       /* an argument makes no sense */
    RF_TOO_LARGE,     /* a size passes 2^63 - 1 bytes or a limit of this header */
    RF_NO_SPACE,      /* the file system of the segment has too little space */
    RF_NOT_A_RING,    /* the segment does not start with RingFeed's magic */
    RF_UNFINISHED,    /* the segment is not (or not yet) whole */
    RF_WRONG_VERSION, /* another layout version */
    RF_DAMAGED,       /* the header contradicts itself or the segment's size */
    RF_CROWDED,       /* every participant entry is in use */
    RF_NO_MEMORY,     /* malloc failed */
    RF_SYSTEM,        /* a system call failed; errno says why */
    RF_INTERRUPTED,   /* Ctrl-C ended the wait of a feed (feed.h) */
    /* As RF_FINISHED, and a producer failed (rf_producing_fail). */
    RF_PRODUCER_FAILED,
    /* No open file description of our own can be had for locks: /proc is not mounted, or the segment's descriptor is gone. */
    RF_NO_DESCRIPTOR,
    RF_OTHER_KIND, /* the segment is a reply pool, and not a ring; or the reverse */
} rf_status;

typedef enum rf_dtype {
    RF_BOOL = 1,
    RF_INT8,
    RF_INT16,
    RF_INT32,
    RF_INT64,
    RF_UINT8,
    RF_UINT16,
    RF_UINT32,
    RF_UINT64,
    RF_FLOAT16,
    RF_FLOAT32,
    RF_FLOAT64,
    RF_COMPLEX64,
    RF_BFLOAT16,
    RF_DTYPES, /* one past the last */
} rf_dtype;

/* Bytes of one element; 0 for an unknown dtype. */
RF_API uint32_t rf_dtype_bytes(uint32_t dtype);

/* One field of the record. The caller fills the first four; rf_plan fills the rest. */
typedef struct rf_field {
    char name[RF_NAME_BYTES];
    uint32_t dtype;
    uint32_t rank;
    uint64_t shape[RF_MAX_RANK];
    uint64_t sample_bytes;  /* of one sample, without padding */
    uint64_t stride_bytes;  /* from one slot to the next: sample_bytes rounded up to RF_ALIGNMENT */
    uint64_t region_offset; /* of the field's slots in the segment */
    uint64_t region_bytes;  /* slots * stride_bytes, rounded up to whole pages */
} rf_field;

/* Where everything lies in a segment; the same computation makes and checks it. */
typedef struct rf_geometry {
    uint32_t slots;
    uint32_t fields;
    uint32_t participants;
    uint32_t page_bytes; /* regions start on and fill whole pages of this size */
    uint64_t participants_offset;
    uint64_t words_offset; /* one for each slot, and behind them the links: the order */
    uint64_t slots_offset; /* of the slot records: tag and times; behind them what takers note */
    uint64_t segment_bytes;
    rf_field field[RF_MAX_FIELDS];
} rf_geometry;

typedef struct rf_options {
    uint32_t slots;        /* at least this many */
    uint32_t participants; /* processes (attachments) at a time */
    uint32_t redeliver;  /* rows of a dead taker: 1 become READY again, 0 are dropped and counted */
    uint32_t huge_pages; /* lay regions out on 2 MiB pages and ask for them */
    int32_t numa_node;   /* bind the memory to this node; -1 for none */
    uint64_t user_data;  /* a number of the creator's own that others can read */
    uint64_t
        ring_inode; /* 0 for a ring; else make a pool of reply cells (replies.h) for the ring with
                    this inode: the last field holds the text of errors */
    uint32_t
        producers; /* rf_producing_begin: so many enter before the last that leaves finishes it */
    uint32_t
        max_deliveries; /* a record over which so many takers failed is set aside; 0: no limit, at most 255 */
} rf_options;

typedef struct rf_ring rf_ring;

/* ---- Segment -------------------------------------------------------------------------------- */

/* Compute the layout. Slots are rounded up so that each region fills whole pages, unless that takes much memory.
 * `geometry->field[0..fields)` hold name, dtype, rank and shape on entry.
 * RF_INVALID, RF_TOO_LARGE. */
RF_API rf_status rf_plan(const rf_options *options, rf_geometry *geometry);

/* Give the empty object `fd` its size, reserve its memory, map it and open it to others.
 * Takes `fd` over, also when it fails. RF_NO_SPACE, RF_NO_MEMORY, RF_SYSTEM. */
RF_API rf_status rf_ring_create(int fd, const rf_options *options, const rf_geometry *geometry,
                                rf_ring **ring);

/* Map an existing segment and join it as a participant. Takes `fd` over, also when it fails.
 * RF_UNFINISHED, RF_NOT_A_RING, RF_WRONG_VERSION, RF_DAMAGED, RF_CROWDED, RF_CLOSED,
 * RF_NO_MEMORY, RF_SYSTEM. */
RF_API rf_status rf_ring_attach(int fd, rf_ring **ring);

/* The layout version a segment says it has; 0 when it says none. */
RF_API uint32_t rf_segment_version(int fd);

/* A new, empty object for rf_ring_create that has no name in any file system, and none of the limits of /dev/shm;
 * `label` shows in /proc. Others open it by its descriptor. -1: a system call failed. */
RF_API int rf_segment_create_nameless(const char *label);
/* Was the segment made so? 1 yes, 0 no. */
RF_API int rf_segment_is_nameless(int fd);

/* Free bytes of the file system that holds `fd`; INT64_MAX when it has no limit, -1 when it does not say. */
RF_API int64_t rf_segment_free_bytes(int fd);

/* Does a living process own the segment? 1 yes, 0 no, -1 a system call failed. */
RF_API int rf_segment_has_owner(int fd);

/* Take the right to unlink a segment that no one owns. The right ends with the process or
 * with the descriptor. RF_AGAIN: someone else has it. RF_SYSTEM. */
RF_API rf_status rf_segment_lock_removal(int fd);

/* Has another process that right? 1 yes, 0 no, -1 a system call failed. A creator asks when it owns
 * the segment, a remover asks for an owner when it has the right: one of them sees the other. */
RF_API int rf_segment_removal_is_locked(int fd);

/* Remove `path` if it is the name of the segment with that device and inode, with the right to do so. `removed`: whether it was.
 * RF_AGAIN: another process has that right now; or, with `spare_the_living`, one owns the segment.
 * RF_SYSTEM. */
RF_API rf_status rf_segment_remove(uint64_t device, uint64_t inode, const char *path,
                                   int spare_the_living, int *removed);

/* What a segment says of itself to who has not joined it. */
typedef struct rf_segment_view {
    uint32_t layout_version; /* 0: none */
    uint32_t participants;   /* that are alive */
    uint64_t creator_pid;    /* as its own PID namespace knows it */
    uint64_t ring_inode;     /* of a reply pool: its ring's inode; else 0 */
    rf_geometry geometry;    /* checked */
} rf_segment_view;

/* Look at a segment; maps nothing. `view` is filled as far as it goes.
 * RF_UNFINISHED, RF_NOT_A_RING, RF_WRONG_VERSION, RF_DAMAGED, RF_NO_MEMORY, RF_SYSTEM. */
RF_API rf_status rf_segment_inspect(int fd, rf_segment_view *view);

/* Close this handle. Waiting threads return RF_CLOSED. The memory stays mapped until the last
 * lease of this handle is dropped. When the owner closes, the ring is closed for everyone. */
RF_API void rf_ring_close(rf_ring *ring);

/* Of a closed handle on which no call is under way, nor comes that is not to return RF_CLOSED: give its entry and memory
 * back, now or with its last lease. What it tells of the ring stays as it was. 0: not yet, as requests are in hand
 * (replies.h) or a block of a producer is open. */
RF_API int rf_ring_retire(rf_ring *ring);
RF_API int rf_ring_is_retired(const rf_ring *ring);

/* Free the handle itself, after rf_ring_close and when no call on it is under way; it lives on
 * inside its leases until they go. */
RF_API void rf_ring_drop(rf_ring *ring);

RF_API const rf_geometry *rf_ring_geometry(const rf_ring *ring);
/* The descriptor of the segment; it stays the handle's own. A copy of it in another process is
 * all that rf_ring_attach needs: the segment may have lost its name by then. */
RF_API int rf_ring_descriptor(const rf_ring *ring);
RF_API int rf_ring_is_owner(const rf_ring *ring);
RF_API int rf_ring_is_closed(const rf_ring *ring);
RF_API int rf_ring_is_finished(const rf_ring *ring);
/* Was it finished, or closed by its owner? Closing this handle is not the end of the ring. */
RF_API int rf_ring_has_ended(const rf_ring *ring);
/* Do the rows of a dead taker become READY again? */
RF_API int rf_ring_redelivers(const rf_ring *ring);
/* May a run pass the ring's end? Not where that would have taken many slots more than were asked for (rf_plan). */
RF_API int rf_ring_is_mirrored(const rf_ring *ring);
RF_API uint32_t rf_ring_max_deliveries(const rf_ring *ring); /* rf_options.max_deliveries */
/* The process that is that participant, or was it last, for people; 0 where nobody ever was. */
RF_API uint32_t rf_participant_pid(const rf_ring *ring, uint32_t participant);
/* Of a reply pool: the inode of its ring; 0 of a ring. */
RF_API uint64_t rf_pool_ring_inode(const rf_ring *ring);
RF_API uint64_t rf_ring_user_data(const rf_ring *ring); /* rf_options.user_data */
/* The inode of the handle's own segment. */
RF_API uint64_t rf_ring_inode(const rf_ring *ring);
RF_API uint64_t rf_ring_device(const rf_ring *ring);
/* Does a living process own the segment of this handle? */
RF_API int rf_ring_has_owner(const rf_ring *ring);
RF_API uint64_t rf_ring_creator_pid(const rf_ring *ring);

/* Address of slot 0 of a field; the region follows a second time right behind itself. */
RF_API void *rf_ring_region(const rf_ring *ring, uint32_t field);

/* Ask for 2 MiB pages / resident memory. 0, or the errno of the refusal. */
RF_API int rf_ring_use_huge_pages(rf_ring *ring);
RF_API int rf_ring_lock_memory(rf_ring *ring);
/* The errno with which the NUMA binding was refused at create; 0 when it was granted or not asked for. */
RF_API int rf_ring_numa_errno(const rf_ring *ring);

/* ---- Page-locked memory --------------------------------------------------------------------- */

/*
 * A GPU's driver, as far as it is needed to page-lock memory that its DMA engine then reads: the
 * shapes are those of CUDA's driver API. Each function returns 0 or the number of its refusal.
 */
typedef struct rf_pin_driver {
    void *context; /* made current around the calls, on whatever thread they are */
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*host_register)(void *address, size_t bytes, unsigned flags);
    int (*host_unregister)(void *address);
    /* Memory of the device and a copy into it, for one look at whether a copy may begin in one
     * registration and end in the next. */
    int (*allocate)(uint64_t *device_address, size_t bytes);
    int (*copy)(uint64_t device_address, const void *address, size_t bytes);
    int (*release)(uint64_t device_address);
} rf_pin_driver;

/* How the payload of a ring is registered: the least of its fields counts. */
typedef enum rf_pin_way {
    RF_PIN_NONE = 0,   /* the driver refused; nothing is registered */
    RF_PIN_FIRST_HALF, /* no second mapping: claims and takes of this handle end at the ring's end */
    RF_PIN_HALVES,     /* each mapping by itself; a copy may pass from one to the other */
    RF_PIN_WHOLE,      /* both mappings at once */
} rf_pin_way;

typedef struct rf_pin_report {
    rf_pin_way way;
    int refusal; /* the driver's number for why it is not more; 0 where it is all */
} rf_pin_report;

/* Register the payload of every field, or of none. A handle that is pinned already is only counted
 * up. Call it before batches are taken: a run over the ring's end that is held already may not be
 * copied where the way is RF_PIN_FIRST_HALF. The driver's functions and context stay needed until
 * the memory is unregistered: by the last rf_ring_unpin, or with the handle's last lease, on whatever
 * thread drops it. A forked child starts unpinned. */
RF_API rf_pin_report rf_ring_pin(rf_ring *ring, const rf_pin_driver *driver, unsigned flags);
/* Count down, and unregister at 0, when no copy may be under way. 0, or the driver's refusal. */
RF_API int rf_ring_unpin(rf_ring *ring);
RF_API int rf_ring_is_pinned(rf_ring *ring);

/* ---- Leases --------------------------------------------------------------------------------- */

/*
 * A lease is a run of slots that this process holds: claimed for writing, or taken for reading.
 * It is counted; dropping the last reference gives the slots back, from any thread, with atomics
 * only: an unpublished claim is discarded, a batch is released.
 */
typedef struct rf_lease rf_lease;

RF_API void rf_lease_retain(rf_lease *lease);
RF_API void rf_lease_drop(rf_lease *lease);
/* The rows of a batch are READY again, and not released, when the last reference is dropped: nobody has
 * looked at them. Also where the rows of the dead are dropped (`redeliver`): those may have been seen. They
 * count as delivered once more, and nobody failed over them. Of a claim: nothing. */
RF_API void rf_lease_give_back(rf_lease *lease);
/* The same, and this taker has failed over them, as if it had died: where the rows of the dead are dropped, so are
 * these. */
RF_API void rf_lease_fail(rf_lease *lease);
/* How many takers have failed over the rows of a batch before. Rows over which some did come alone. */
RF_API uint32_t rf_lease_failures(const rf_lease *lease);
/* Did so many fail that its one row is to be set aside (rf_options.max_deliveries)? Its release counts as that. */
RF_API int rf_lease_is_dead_letter(const rf_lease *lease);
/* Of a batch of one row that was taken `unseen`: from now on, or no longer, this taker fails over it by dying. Of several
 * rows: nothing, for over these it does. */
RF_API void rf_lease_show(rf_lease *lease, int shown);
/* Cut a batch in two: it keeps its first `rows`, the others are the lease that is returned. NULL: no
 * memory, or it is no batch of more rows that this reference holds alone. */
RF_API rf_lease *rf_lease_split(rf_lease *batch, uint32_t rows);
RF_API uint32_t rf_lease_references(const rf_lease *lease);
RF_API const rf_ring *rf_lease_ring(const rf_lease *lease);
RF_API uint32_t rf_lease_first(const rf_lease *lease);
RF_API uint32_t rf_lease_rows(const rf_lease *lease);
/* Which record a row is, for rf_record_is_gone. */
RF_API uint64_t rf_lease_link(const rf_lease *lease, uint32_t row);
/* Address of the lease's first sample of a field. */
RF_API void *rf_lease_data(const rf_lease *lease, uint32_t field);

/* What a slot knows of its record; times are CLOCK_MONOTONIC nanoseconds, 0 = not yet. */
typedef struct rf_record {
    uint64_t tag;
    int64_t claimed_ns;
    int64_t published_ns;
    int64_t taken_ns;
    int64_t released_ns; /* when the slot was last given back, before this record */
    uint32_t producer;   /* participant that wrote it */
    uint32_t
        deliveries; /* how often it was handed to a taker, 255 at most; more than 1: an earlier one died, or gave
                       it back */
    uint32_t failures; /* how many of these died or failed over it */
} rf_record;

RF_API void rf_lease_records(const rf_lease *lease, rf_record *records);
RF_API void rf_lease_tags(const rf_lease *lease, uint64_t *tags);

typedef enum rf_view {
    RF_VIEW_ROWS = 0,   /* [rows, *shape]: strided where samples are padded */
    RF_VIEW_SAMPLE = 1, /* [*shape]: the first row alone */
    RF_VIEW_PADDED = 2, /* [rows, stride in elements]: dense, padding included */
} rf_view;

/* How a tensor is handed over. An unversioned one cannot say that it may only be read, nor that it is a copy. */
typedef struct rf_export_form {
    int versioned; /* a DLManagedTensorVersioned (DLPack 1.0), else a DLManagedTensor (before) */
    int read_only; /* nobody may write into it */
    int copied;    /* memory of its own, that holds no slot; writable in any case */
} rf_export_form;

/* Export a field of the lease as a DLPack tensor on the CPU, which holds a reference to the lease unless it is copied.
 * Its deleter may run on any thread. NULL: no memory. */
RF_API void *rf_lease_export(rf_lease *lease, uint32_t field, rf_view view,
                             const rf_export_form *form);
/* Say of a versioned tensor, which nobody took over yet, that it may only be read. */
RF_API void rf_export_make_read_only(void *tensor);
/* Call the tensor's own deleter, for one that nobody took over. */
RF_API void rf_export_delete(void *tensor, int versioned);

/* ---- Producing ------------------------------------------------------------------------------ */

/* Claim up to `rows` contiguous free slots: at least one, as many as lie free in a row.
 * `deadline_ns`: CLOCK_MONOTONIC; 0 does not wait. RF_AGAIN, RF_FULL, RF_FINISHED, RF_CLOSED,
 * RF_INVALID, RF_NO_MEMORY. */
RF_API rf_status rf_claim(rf_ring *ring, uint32_t rows, int64_t deadline_ns, rf_lease **lease);

/* Write zeros into every slot of a claim, padding included. */
RF_API void rf_claim_zero(rf_lease *claim);

/* Hand the first `rows` rows to takers, in order, and discard the others. With `kept` (someone
 * may still look at the slots through this claim) they are not reused before the lease is dropped.
 * RF_SLOT_LOST: the claim was taken back meanwhile. */
RF_API rf_status rf_publish(rf_lease *lease, uint32_t rows, const uint64_t *tags, int kept);
/* The same for rows that want an answer: `replies[row]` as rf_cell_ask gave it, or 0. */
RF_API rf_status rf_publish_requests(rf_lease *lease, uint32_t rows, const uint64_t *tags,
                                     const uint64_t *replies, int kept);

/* For a claim that somebody may still write into: claim up to `rows` slots and copy its rows from `row` on there, to be
 * published in their place; also when the ring was finished meanwhile. Does not wait. RF_FULL, RF_SLOT_LOST,
 * RF_INVALID, RF_NO_MEMORY. */
RF_API rf_status rf_claim_copy(rf_lease *claim, uint32_t row, uint32_t rows, rf_lease **copy);
/* The slots of such a claim are no claim any more: nobody gets them before the lease is dropped. */
RF_API void rf_set_apart(rf_lease *claim);

/* Claim one slot, copy one sample per field from `sources`, publish. As rf_claim and rf_publish.
 * A small record has one time for both. */
RF_API rf_status rf_put(rf_ring *ring, const void *const *sources, uint64_t tag,
                        int64_t deadline_ns);
/* The same for a request; `link`, where it is not NULL, is told which record it became. */
RF_API rf_status rf_put_request(rf_ring *ring, const void *const *sources, uint64_t tag,
                                uint64_t reply, int64_t deadline_ns, uint64_t *link);
/* Is that record out of the ring, because it was released or dropped? */
RF_API int rf_record_is_gone(const rf_ring *ring, uint64_t link);

/*
 * Producing blocks. The ring is finished when the last open block has ended, and `rf_options.producers` of
 * them were begun. What a producer that died had open has ended, too: whoever waits for records finds out.
 */

typedef struct rf_block {
    uint32_t generation,
        incarnation; /* whose it is: not a forked child's, nor of who comes after a dead one */
} rf_block;

/* Begin a block. `inside`: within one of the same handle, which is open meanwhile; it counts as open, and not as
 * another producer.
 * RF_FINISHED: the ring was finished, perhaps by the last block that ended just now. RF_CLOSED, RF_CROWDED,
 * RF_INVALID: it is a reply pool. */
RF_API rf_status rf_producing_begin(rf_ring *ring, int inside, rf_block *block);
/* Say, before the block ends, that its producer failed. Takers that find the ring finished are told
 * RF_PRODUCER_FAILED. The first text is kept, up to RF_FAILURE_BYTES of it. Of a parent's block: nothing. */
RF_API void rf_producing_fail(rf_ring *ring, rf_block block, const char *text, size_t bytes);
/* End a block, also on a handle that was closed. Of a parent's block, in a forked child: nothing. */
RF_API void rf_producing_end(rf_ring *ring, rf_block block);

/* Has a producer failed? */
RF_API int rf_ring_has_failed(const rf_ring *ring);
/* Copy the text of the first that did, RF_FAILURE_BYTES at most, and a NUL. Returns its bytes. Where it was lost, the
 * text says that: a producer failed while another wrote its own, and died over it. */
RF_API uint32_t rf_ring_failure(const rf_ring *ring, char *text);

RF_API uint32_t rf_ring_producers_wanted(const rf_ring *ring); /* rf_options.producers */
/* Blocks that were ever begun, and not inside another. */
RF_API uint64_t rf_ring_producers_entered(const rf_ring *ring);
/* Blocks that are open, also inside another. */
RF_API uint32_t rf_ring_open_blocks(const rf_ring *ring);

/* ---- Taking --------------------------------------------------------------------------------- */

typedef struct rf_take_request {
    uint32_t max_rows;
    uint32_t min_rows;   /* wait for this many published records */
    int64_t deadline_ns; /* CLOCK_MONOTONIC; 0 does not wait */
    int64_t linger_ns;   /* once min_rows are there, wait this long for max_rows */
    uint32_t
        dead_letters; /* 1: hand them out, each alone; 0: set them aside (rf_next_dead_letter) */
    uint32_t
        unseen; /* 1: of a row that comes alone, dying counts as failing only behind rf_lease_show */
    /* Kept from call to call; zero at first. */
    int64_t linger_until_ns;
    int64_t enough_since_ns;
    uint32_t lingers_at; /* rf_take_first: of which ring these are, counted from 1 */
    uint32_t
        patient; /* where many wait, RF_AGAIN may come after RF_MOST_PATIENCE_NS instead of a slice */
} rf_take_request;

/* Take the oldest run of published records, at most max_rows of them.
 *
 * A record over which a taker failed comes alone, unless min_rows is more than 1, and one over which rf_options.max_deliveries did is a dead letter.
 * The run is shorter than min_rows only for that, when no more can come (finished, or no slot is left to
 * publish in), or when for 5 ms (or linger_ns, if longer) min_rows records have been ready but lie
 * on both sides of a slot that someone still holds, or a producer has waited for a free slot while
 * the missing ones were in someone's hands.
 * RF_AGAIN, RF_EMPTY, RF_FINISHED, RF_PRODUCER_FAILED, RF_CLOSED, RF_INVALID, RF_NO_MEMORY. */
RF_API rf_status rf_take(rf_ring *ring, rf_take_request *request, rf_lease **lease);

/* What is left to be said of a record that a take through this handle set aside. */
typedef struct rf_dead_letter {
    uint64_t tag;
    uint32_t producer, failures;
    uint32_t unsaid; /* letters before this one of which nothing else is known */
} rf_dead_letter;

/* Take the oldest letter of which nothing was said yet. 0: there is none. */
RF_API int rf_next_dead_letter(rf_ring *ring, rf_dead_letter *letter);

enum { RF_MOST_LEVELS = 8 };

/* The same from the first of several rings that has records, the most urgent first. The deadline is for
 * min_rows; the wait for more is on the ring that had them. Statuses as rf_take. */
RF_API rf_status rf_take_first(rf_ring *const *rings, uint32_t count, rf_take_request *request,
                               rf_lease **lease);

/* ---- The whole ring ------------------------------------------------------------------------- */

/* No more records: claims fail from now on, takers drain what was claimed before, then stop. */
RF_API void rf_finish(rf_ring *ring);

/* Give back what dead participants held. Returns how many participants were found dead. */
RF_API uint32_t rf_recover(rf_ring *ring);

/* The same of those who hold something, at most once in a slice whoever calls: for who waits for others. */
RF_API void rf_reap(rf_ring *ring);

/* When somebody who waits for anything of this ring should look again at the latest, where others wait, too. */
RF_API int64_t rf_patience_until(const rf_ring *ring);
/* Where many wait: does another thread than this one look after the dead? */
RF_API int rf_another_reaps(const rf_ring *ring);

/* How many records are READY. */
RF_API uint32_t rf_ring_ready(const rf_ring *ring);

typedef struct rf_counts {
    uint64_t published;
    uint64_t discarded;
    uint64_t taken;
    uint64_t released;
    uint64_t batches;
    uint64_t redelivered;   /* rows that became READY again: of dead takers, or given back */
    uint64_t dropped;       /* rows of dead takers that were dropped */
    uint64_t reclaimed;     /* claims of dead producers that were freed */
    uint64_t dead_letters;  /* rows over which too many takers failed, set aside */
    uint64_t claim_wait_ns; /* time producers spent waiting for a free slot */
    uint64_t take_wait_ns;  /* time takers spent waiting for records */
} rf_counts;

typedef struct rf_stats {
    uint32_t free, claimed, ready, taken, kept; /* slots by state, counted one after the other */
    uint32_t participants;
    rf_counts counts; /* of all participants, past and present */
} rf_stats;

RF_API void rf_ring_stats(rf_ring *ring, rf_stats *stats);

/* What a participant holds: slots that it claimed, slots that it took or still looks at; in a pool, answers that it
 * has not let go of. */
typedef struct rf_holding {
    uint32_t pid;
    uint32_t ours; /* 1: it is a handle of this process */
    uint32_t claimed, held;
} rf_holding;

/* Fill one entry for each participant, of which the geometry says how many there are. */
RF_API void rf_ring_holdings(rf_ring *ring, rf_holding *holdings);

/* CLOCK_MONOTONIC in nanoseconds. */
RF_API int64_t rf_now_ns(void);

#ifdef __cplusplus
}
#endif
#endif
