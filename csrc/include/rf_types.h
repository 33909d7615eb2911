/*
 * Limits, statuses, data types, and the layout of a segment. Every other public header includes it.
 */
#ifndef RINGFEED_TYPES_H
#define RINGFEED_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RF_API __attribute__((visibility("default")))

/* The layout version of the segments that this library makes and reads. */
#define RF_READS_VERSION 6u

enum {
    RF_NAME_BYTES = 64,         /* a field's name with its closing NUL */
    RF_MAX_RANK = 32,           /* dimensions of a sample */
    RF_MAX_FIELDS = 64,         /* fields of a record */
    RF_MAX_SLOTS = 1 << 24,     /* a link names a slot in 24 bits */
    RF_MAX_PARTICIPANTS = 4095, /* a word names its owner in 12 bits; 0 is nobody */
    RF_ALIGNMENT = 64,          /* TensorFlow takes foreign memory without a copy only from there */
    RF_FAILURE_BYTES = 4000,    /* of the text of a producer's error */
};

/* A wait returns to its caller at least this often. */
#define RF_SLICE_NS INT64_C(50000000)
/* A patient wait, when many others wait too, returns at least this often; after a signal at
 * once. */
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
    RF_TOO_LARGE,     /* a size is over 2^63 - 1 bytes or over a limit of this header */
    RF_NO_SPACE,      /* the file system of the segment has too little space */
    RF_NOT_A_RING,    /* the segment does not start with RingFeed's magic */
    RF_UNFINISHED,    /* the segment is not (or not yet) initialized */
    RF_WRONG_VERSION, /* another layout version */
    RF_DAMAGED,       /* the header contradicts itself or the segment's size */
    RF_CROWDED,       /* every participant entry is in use */
    RF_NO_MEMORY,     /* malloc failed */
    RF_SYSTEM,        /* a system call failed; errno says why */
    RF_INTERRUPTED,   /* Ctrl-C ended the wait of a feed (feed.h) */
    /* As RF_FINISHED, and a producer failed (rf_producing_fail). */
    RF_PRODUCER_FAILED,
    /* No open file description for locks can be had: /proc is not mounted, or the segment's
     * descriptor is gone. */
    RF_NO_DESCRIPTOR,
    RF_OTHER_KIND, /* the segment is a reply pool where a ring was asked for, or the reverse */
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

/* Where each part of a segment lies. The same computation makes and checks it. */
typedef struct rf_geometry {
    uint32_t slots;
    uint32_t fields;
    uint32_t participants;
    uint32_t page_bytes; /* regions start on and fill whole pages of this size */
    uint64_t participants_offset;
    uint64_t words_offset; /* one for each slot, and behind them the links: the order */
    uint64_t slots_offset; /* of the slot records: tag and times; behind them the data of takers */
    uint64_t segment_bytes;
    rf_field field[RF_MAX_FIELDS];
} rf_geometry;

typedef struct rf_options {
    uint32_t slots;        /* at least this many */
    uint32_t participants; /* attachments at a time */
    uint32_t redeliver;  /* rows of a dead taker: 1 become READY again, 0 are dropped and counted */
    uint32_t huge_pages; /* lay regions out on 2 MiB pages and ask for such pages */
    int32_t numa_node;   /* bind the memory to this node; -1 for none */
    uint64_t user_data;  /* a number of the creator's own that others can read */
    /* 0 for a ring. Of a pool of reply cells (replies.h): the inode of its ring; the last field then holds the text of errors. */
    uint64_t ring_inode;
    /* rf_producing_begin: this many producers enter before the last that leaves finishes the ring. */
    uint32_t producers;
    /* A record over which this many takers failed is set aside. 0: no limit; at most 255. */
    uint32_t max_deliveries;
} rf_options;

typedef struct rf_ring rf_ring;

#ifdef __cplusplus
}
#endif
#endif
