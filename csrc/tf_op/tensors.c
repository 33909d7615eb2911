/*
 * An element as tensors over its own memory.
 *
 * The deallocator of each tensor drops the element, in the thread in which TensorFlow frees the last tensor. It uses
 * atomics only. It may not know kernels, or how a feed gathers an element.
 */
#include "tf_op/tensors.h"

const rf_feed_table *_Atomic rf_op_feeds;

enum { ROWS, TICKET, FIRST_VALUE }; /* outputs of RingfeedNext */
enum { TAGS = -1 };                 /* in its attribute `fields`: the records' tags */

static TF_DataType type_of(uint32_t dtype)
{
    static const TF_DataType types[RF_DTYPES] = {
        [RF_BOOL] = TF_BOOL,           [RF_INT8] = TF_INT8,         [RF_INT16] = TF_INT16,
        [RF_INT32] = TF_INT32,         [RF_INT64] = TF_INT64,       [RF_UINT8] = TF_UINT8,
        [RF_UINT16] = TF_UINT16,       [RF_UINT32] = TF_UINT32,     [RF_UINT64] = TF_UINT64,
        [RF_FLOAT16] = TF_HALF,        [RF_FLOAT32] = TF_FLOAT,     [RF_FLOAT64] = TF_DOUBLE,
        [RF_COMPLEX64] = TF_COMPLEX64, [RF_BFLOAT16] = TF_BFLOAT16,
    };
    return dtype < RF_DTYPES ? types[dtype] : 0;
}

static void drop_element(void *data, size_t bytes, void *element)
{
    (void)data;
    (void)bytes;
    atomic_load(&rf_op_feeds)->drop(element);
}

/* An element, its view, and the functions for it. */
typedef struct source {
    const rf_feed_table *table;
    rf_element *element;
    rf_element_view view;
} source;

/* A tensor over the element's memory. If a sample does not fill its slot, the tensor shows the padding, too. */
static TF_Tensor *tensor_over(const source *from, const rf_field *field, uint32_t index)
{
    int64_t dims[RF_MAX_RANK + 1] = {from->view.shown};
    int rank = 1;
    if (field->stride_bytes == field->sample_bytes)
        for (uint32_t axis = 0; axis < field->rank; axis++)
            dims[rank++] = (int64_t)field->shape[axis];
    else
        dims[rank++] = (int64_t)(field->stride_bytes / from->table->dtype_bytes(field->dtype));
    from->table->retain(from->element);
    /* If TF_NewTensor fails, it has already called drop_element. */
    return TF_NewTensor(type_of(field->dtype), dims, rank, from->view.data[index],
                        from->view.shown * field->stride_bytes, drop_element, from->element);
}

static bool set_tags(TF_OpKernelContext *context, int output, const source *from, TF_Status *status)
{
    int64_t dims[1] = {from->view.shown};
    TF_Tensor *tensor = TF_AllocateOutput(context, output, TF_UINT64, dims, 1,
                                          from->view.shown * sizeof(uint64_t), status);
    if (TF_GetCode(status) != TF_OK)
        return false;
    if (from->view.shown)
        from->table->tags(from->element, TF_TensorData(tensor));
    TF_DeleteTensor(tensor);
    return true;
}

static bool set_value(TF_OpKernelContext *context, int value, const rf_node *node,
                      const rf_geometry *geometry, const source *from, TF_Status *status)
{
    int64_t index = node->field[value];
    if (index == TAGS)
        return set_tags(context, FIRST_VALUE + value, from, status);
    TF_Tensor *tensor = tensor_over(from, &geometry->field[index], (uint32_t)index);
    if (!tensor) {
        TF_SetStatus(status, TF_UNKNOWN,
                     "TensorFlow could not make a tensor over the ring's memory.");
        return false;
    }
    TF_SetOutput(context, FIRST_VALUE + value, tensor, status);
    TF_DeleteTensor(tensor);
    return TF_GetCode(status) == TF_OK;
}

static bool set_number(TF_OpKernelContext *context, int output, int64_t number, TF_Status *status)
{
    TF_Tensor *tensor =
        TF_AllocateOutput(context, output, TF_INT64, NULL, 0, sizeof number, status);
    if (TF_GetCode(status) != TF_OK)
        return false;
    *(int64_t *)TF_TensorData(tensor) = number;
    TF_DeleteTensor(tensor);
    return true;
}

/* The tensor of a ticket keeps a reference to the element. So the element survives when its values are copied and
 * freed. */
static bool set_ticket(TF_OpKernelContext *context, const source *from, TF_Status *status)
{
    int64_t *ticket = from->view.ticket;
    if (!ticket)
        return set_number(context, TICKET, 0, status);
    from->table->retain(from->element);
    TF_Tensor *tensor =
        TF_NewTensor(TF_INT64, NULL, 0, ticket, sizeof *ticket, drop_element, from->element);
    if (!tensor) {
        TF_SetStatus(status, TF_UNKNOWN, "TensorFlow could not make a tensor of a ticket.");
        return false;
    }
    TF_SetOutput(context, TICKET, tensor, status);
    TF_DeleteTensor(tensor);
    return TF_GetCode(status) == TF_OK;
}

void rf_set_element(TF_OpKernelContext *context, const rf_node *node, const rf_feed_table *table,
                    rf_feed *feed, rf_element *element, TF_Status *status)
{
    const rf_geometry *geometry = table->geometry(feed);
    source from = {.table = table, .element = element};
    table->read(element, &from.view);
    if (!set_number(context, ROWS, from.view.rows, status) || !set_ticket(context, &from, status))
        return;
    for (int value = 0; value < node->count; value++)
        if (!set_value(context, value, node, geometry, &from, status))
            return;
}

bool rf_node_fits(const rf_node *node, const rf_geometry *geometry, TF_Status *status)
{
    for (int32_t value = 0; value < node->count; value++) {
        int64_t index = node->field[value];
        TF_DataType type = TF_UINT64;
        if (index != TAGS)
            type =
                index >= 0 && index < geometry->fields ? type_of(geometry->field[index].dtype) : 0;
        if (type == node->type[value])
            continue;
        TF_SetStatus(status, TF_INVALID_ARGUMENT,
                     "this function was made for a ring with other fields. Make it again.");
        return false;
    }
    return true;
}

void rf_set_bool(TF_OpKernelContext *context, bool value, TF_Status *status)
{
    TF_Tensor *tensor = TF_AllocateOutput(context, 0, TF_BOOL, NULL, 0, sizeof value, status);
    if (TF_GetCode(status) != TF_OK)
        return;
    *(bool *)TF_TensorData(tensor) = value;
    TF_DeleteTensor(tensor);
}
