/*
 * Between the files of the op: what a node hands out, and how.
 */
#ifndef RF_TF_ELEMENT_H
#define RF_TF_ELEMENT_H

#include "feed/feed.h"
#include "tf_op/tf_api.h"

/* Where feeds are (rf_op_connect). */
extern const rf_feed_table *_Atomic rf_op_feeds;

enum { RF_RING_NAME_BYTES = 256 };

/* What a node of a graph was made for. */
typedef struct rf_element {
    char ring[RF_RING_NAME_BYTES]; /* its name, for messages */
    int32_t count;
    int64_t field[RF_MAX_FIELDS + 1];
    TF_DataType type[RF_MAX_FIELDS + 1];
} rf_element;

/* Has the feed's ring the fields that the node was made for? Asked before records are taken, which would be lost. */
bool rf_element_fits(const rf_element *element, const rf_geometry *geometry, TF_Status *status);
/* All outputs of RingfeedNext. */
void rf_give_run(TF_OpKernelContext *context, const rf_element *element, const rf_feed_table *table,
                 rf_feed *feed, rf_run *run, TF_Status *status);
/* The first output, a bool. */
void rf_give_truth(TF_OpKernelContext *context, bool truth, TF_Status *status);

#endif
