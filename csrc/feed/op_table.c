/*
 * The table of functions through which the TensorFlow ops call feeds. The ops' shared object is not linked with this
 * library. It may not know how a feed works.
 */
#include "feed.h"

const rf_feed_table *rf_feed_table_get(void)
{
    static const rf_feed_table table = {
        .version = RF_FEED_TABLE_VERSION,
        .find = rf_feed_find,
        .unref = rf_feed_unref,
        .next = rf_feed_next,
        .begin_round = rf_feed_begin_round,
        .explain = rf_feed_explain,
        .geometry = rf_feed_geometry,
        .read = rf_element_read,
        .retain = rf_element_retain,
        .drop = rf_element_drop,
        .tags = rf_element_tags,
        .deliver = rf_ticket_deliver,
        .dtype_bytes = rf_dtype_bytes,
    };
    return &table;
}
