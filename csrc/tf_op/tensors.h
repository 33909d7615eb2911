/*
 * The outputs of a node, as tensors. Between the files of the op only.
 */
#ifndef RF_TF_TENSORS_H
#define RF_TF_TENSORS_H

#include <stdatomic.h>

#include "feed.h"
#include "tf_op/tf_api.h"

/* The functions of feeds (rf_op_connect). */
extern const rf_feed_table *_Atomic rf_op_feeds;

enum { RF_RING_NAME_BYTES = 256 };

/* The attributes of a node of a graph. */
typedef struct rf_node {
    char ring[RF_RING_NAME_BYTES]; /* the name of the ring, for messages */
    int32_t count;                 /* of values */
    int64_t field[RF_MAX_FIELDS + 1];
    TF_DataType type[RF_MAX_FIELDS + 1];
} rf_node;

/* Check that the feed's ring has the fields that the node was made for. Call it before taking records: a take with the
 * wrong fields would lose them. */
bool rf_node_fits(const rf_node *node, const rf_geometry *geometry, TF_Status *status);
/* Set all outputs of RingfeedNext. */
void rf_set_element(TF_OpKernelContext *context, const rf_node *node, const rf_feed_table *table,
                    rf_feed *feed, rf_element *element, TF_Status *status);
/* Set the first output, a bool. */
void rf_set_bool(TF_OpKernelContext *context, bool value, TF_Status *status);

#endif
