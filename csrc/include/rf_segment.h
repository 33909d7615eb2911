/*
 * Segments and handles: creating, attaching, inspecting, removing, closing, page-locking.
 */
#ifndef RINGFEED_SEGMENT_H
#define RINGFEED_SEGMENT_H

#include "rf_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Compute the layout. Slots are rounded up so that each region fills whole pages, unless that
 * takes much memory. `geometry->field[0..fields)` hold name, dtype, rank and shape on entry.
 * RF_INVALID, RF_TOO_LARGE. */
RF_API rf_status rf_plan(const rf_options *options, rf_geometry *geometry);

/* Give the empty object `fd` its size, reserve and map its memory, and open it to others. The
 * descriptor becomes the handle's, also on failure. RF_NO_SPACE, RF_NO_MEMORY, RF_SYSTEM;
 * RF_OTHER_KIND: the options are those of a reply pool. */
RF_API rf_status rf_ring_create(int fd, const rf_options *options, const rf_geometry *geometry,
                                rf_ring **ring);

/* Map an existing ring and join it as a participant. The descriptor becomes the handle's, also
 * on failure. RF_UNFINISHED, RF_NOT_A_RING, RF_WRONG_VERSION, RF_DAMAGED, RF_OTHER_KIND,
 * RF_CROWDED, RF_CLOSED, RF_NO_MEMORY, RF_SYSTEM. */
RF_API rf_status rf_ring_attach(int fd, rf_ring **ring);

/* The layout version that a segment states; 0 if it states none. */
RF_API uint32_t rf_segment_version(int fd);

/* Make a new, empty object for rf_ring_create that has no name in any file system and none of
 * the limits of /dev/shm. `label` shows in /proc. Others open it by its descriptor. -1: a
 * system call failed. */
RF_API int rf_segment_create_nameless(const char *label);
/* Was the segment made that way? 1 yes, 0 no. */
RF_API int rf_segment_is_nameless(int fd);

/* Free bytes of the file system that holds `fd`; INT64_MAX if it has no limit, -1 if it does
 * not say. */
RF_API int64_t rf_segment_free_bytes(int fd);

/* Does a living process own the segment? 1 yes, 0 no, -1 a system call failed. */
RF_API int rf_segment_has_owner(int fd);

/* Lock the removal of a segment that no process owns. The lock ends with the process or the
 * descriptor. RF_AGAIN: another process has it. RF_SYSTEM. */
RF_API rf_status rf_segment_lock_removal(int fd);

/* Has another process locked the removal? 1 yes, 0 no, -1 a system call failed. A creator asks
 * this once it owns the segment, and a remover asks for an owner once it has the lock: one of
 * them sees the other. */
RF_API int rf_segment_removal_is_locked(int fd);

/* Lock the removal, and remove `path` if it is the name of the segment with that device and
 * inode. `removed`: whether it was. RF_AGAIN: another process has the lock now; or, with
 * `spare_the_living`, a living process owns the segment. RF_SYSTEM. */
RF_API rf_status rf_segment_remove(uint64_t device, uint64_t inode, const char *path,
                                   int spare_the_living, int *removed);

/* The facts that a segment tells a process that has not joined it. */
typedef struct rf_segment_view {
    uint32_t layout_version; /* 0: none */
    uint32_t participants;   /* that are alive */
    uint64_t creator_pid;    /* as its own PID namespace knows it */
    uint64_t ring_inode;     /* of a reply pool: its ring's inode; else 0 */
    rf_geometry geometry;    /* checked */
} rf_segment_view;

/* Inspect a segment; maps nothing. `view` is filled as far as the segment is right.
 * RF_UNFINISHED, RF_NOT_A_RING, RF_WRONG_VERSION, RF_DAMAGED, RF_NO_MEMORY, RF_SYSTEM. */
RF_API rf_status rf_segment_inspect(int fd, rf_segment_view *view);

/* Close this handle. Waiting threads return RF_CLOSED. The memory stays mapped until the last
 * lease of this handle is dropped. If the owner closes, the ring is closed for everyone. */
RF_API void rf_ring_close(rf_ring *ring);

/* Give back the entry and memory of a closed handle, now or with its last lease. No call on it
 * may be under way, except for calls that return RF_CLOSED. The handle still tells the last
 * state of the ring. 0: not yet, because requests are held (replies.h) or a producing block is
 * open. */
RF_API int rf_ring_retire(rf_ring *ring);
RF_API int rf_ring_is_retired(const rf_ring *ring);

/* Free the handle itself, after rf_ring_close and when no call on it is under way. It lives on
 * inside its leases until they go. */
RF_API void rf_ring_drop(rf_ring *ring);

RF_API const rf_geometry *rf_ring_geometry(const rf_ring *ring);
/* The descriptor of the segment; it stays the handle's own. rf_ring_attach in another process
 * needs only a copy of it: the segment may have lost its name by then. */
RF_API int rf_ring_descriptor(const rf_ring *ring);
RF_API int rf_ring_is_owner(const rf_ring *ring);
RF_API int rf_ring_is_closed(const rf_ring *ring);
RF_API int rf_ring_is_finished(const rf_ring *ring);
/* Was it finished, or closed by its owner? Closing this handle does not end the ring. */
RF_API int rf_ring_has_ended(const rf_ring *ring);
/* Do the rows of a dead taker become READY again? */
RF_API int rf_ring_redelivers(const rf_ring *ring);
/* May a run pass the ring's end? Not if that would have taken many more slots than were asked
 * for (rf_plan). */
RF_API int rf_ring_is_mirrored(const rf_ring *ring);
RF_API uint32_t rf_ring_max_deliveries(const rf_ring *ring); /* rf_options.max_deliveries */
/* The process that is or last was that participant, for messages; 0 if there never was one. */
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
/* The errno with which the NUMA binding was refused at create; 0 if it was granted or not
 * asked for. */
RF_API int rf_ring_numa_errno(const rf_ring *ring);

/* ---- Page-locked memory --------------------------------------------------------------------- */

/*
 * A GPU's driver, as far as it is needed to page-lock memory that its DMA engine then reads: the shapes are those of
 * CUDA's driver API. Each function returns 0 or the number of its refusal.
 */
typedef struct rf_pin_driver {
    void *context; /* made current around the calls, on any thread */
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*host_register)(void *address, size_t bytes, unsigned flags);
    int (*host_unregister)(void *address);
    /* Device memory and a copy into it, for one check: may a copy begin in one registration
     * and end in the next? */
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
    int refusal; /* the driver's number for why it is not more; 0 if it is all */
} rf_pin_report;

/* Register the payload of every field, or of none. On a pinned handle the call only counts up.
 * Call it before batches are taken: with RF_PIN_FIRST_HALF, a run over the ring's end that is
 * already held may fail to copy. The driver's functions and context stay needed until the
 * memory is unregistered: by the last rf_ring_unpin, or with the handle's last lease, on the
 * thread that drops it. A forked child starts unpinned. */
RF_API rf_pin_report rf_ring_pin(rf_ring *ring, const rf_pin_driver *driver, unsigned flags);
/* Count down, and unregister at 0, when no copy may be under way. 0, or the driver's refusal. */
RF_API int rf_ring_unpin(rf_ring *ring);
RF_API int rf_ring_is_pinned(rf_ring *ring);

#ifdef __cplusplus
}
#endif
#endif
