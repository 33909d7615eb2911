/*
 * An element as tensors: over the run's own memory, whose deallocator drops the run in whatever thread TensorFlow lets
 * go of the last of them, with atomics only.
 *
 * It may not know kernels, nor how an element comes to be.
 */
#include "tf_op/tensors.h"

enum { ROWS, TICKET, FIRST_VALUE }; /* outputs of RingfeedNext */
enum { TAGS = -1 };                 /* in its attribute `fields` */

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

static void let_go(void *data, size_t bytes, void *run)
{
    (void)data;
    (void)bytes;
    atomic_load(&rf_op_feeds)->drop(run);
}

/* A tensor over the run's memory. A sample that does not fill its slot is shown with its padding. */
static TF_Tensor *tensor_over(const rf_feed_table *table, rf_run *run, const rf_field *field,
                              uint32_t index)
{
    int64_t dims[RF_MAX_RANK + 1] = {run->shown};
    int rank = 1;
    if (field->stride_bytes == field->sample_bytes)
        for (uint32_t axis = 0; axis < field->rank; axis++)
            dims[rank++] = (int64_t)field->shape[axis];
    else
        dims[rank++] = (int64_t)(field->stride_bytes / table->dtype_bytes(field->dtype));
    table->retain(run);
    /* Where it makes none, it has called let_go already. */
    return TF_NewTensor(type_of(field->dtype), dims, rank, run->data[index],
                        run->shown * field->stride_bytes, let_go, run);
}

static bool give_tags(TF_OpKernelContext *context, int output, const rf_feed_table *table,
                      rf_run *run, TF_Status *status)
{
    int64_t dims[1] = {run->shown};
    TF_Tensor *tensor = TF_AllocateOutput(context, output, TF_UINT64, dims, 1,
                                          run->shown * sizeof(uint64_t), status);
    if (TF_GetCode(status) != TF_OK)
        return false;
    if (run->shown)
        table->tags(run, TF_TensorData(tensor));
    TF_DeleteTensor(tensor);
    return true;
}

static bool give_value(TF_OpKernelContext *context, int value, const rf_element *element,
                       const rf_geometry *geometry, const rf_feed_table *table, rf_run *run,
                       TF_Status *status)
{
    int64_t index = element->field[value];
    if (index == TAGS)
        return give_tags(context, FIRST_VALUE + value, table, run, status);
    TF_Tensor *tensor = tensor_over(table, run, &geometry->field[index], (uint32_t)index);
    if (!tensor) {
        TF_SetStatus(status, TF_UNKNOWN, "TensorFlow made no tensor over the ring's memory.");
        return false;
    }
    TF_SetOutput(context, FIRST_VALUE + value, tensor, status);
    TF_DeleteTensor(tensor);
    return TF_GetCode(status) == TF_OK;
}

static bool give_number(TF_OpKernelContext *context, int output, int64_t number, TF_Status *status)
{
    TF_Tensor *tensor =
        TF_AllocateOutput(context, output, TF_INT64, NULL, 0, sizeof number, status);
    if (TF_GetCode(status) != TF_OK)
        return false;
    *(int64_t *)TF_TensorData(tensor) = number;
    TF_DeleteTensor(tensor);
    return true;
}

/* The ticket of a run that can go back holds the run, so that copies made of its values do not let it go. */
static bool give_ticket(TF_OpKernelContext *context, const rf_feed_table *table, rf_run *run,
                        TF_Status *status)
{
    if (!run->ticket)
        return give_number(context, TICKET, 0, status);
    table->retain(run);
    TF_Tensor *tensor =
        TF_NewTensor(TF_INT64, NULL, 0, run->ticket, sizeof *run->ticket, let_go, run);
    if (!tensor) {
        TF_SetStatus(status, TF_UNKNOWN, "TensorFlow made no tensor of a ticket.");
        return false;
    }
    TF_SetOutput(context, TICKET, tensor, status);
    TF_DeleteTensor(tensor);
    return TF_GetCode(status) == TF_OK;
}

void rf_give_run(TF_OpKernelContext *context, const rf_element *element, const rf_feed_table *table,
                 rf_feed *feed, rf_run *run, TF_Status *status)
{
    const rf_geometry *geometry = table->geometry(feed);
    if (!give_number(context, ROWS, run->rows, status) || !give_ticket(context, table, run, status))
        return;
    for (int value = 0; value < element->count; value++)
        if (!give_value(context, value, element, geometry, table, run, status))
            return;
}

bool rf_element_fits(const rf_element *element, const rf_geometry *geometry, TF_Status *status)
{
    for (int32_t value = 0; value < element->count; value++) {
        int64_t index = element->field[value];
        TF_DataType type = TF_UINT64;
        if (index != TAGS)
            type =
                index >= 0 && index < geometry->fields ? type_of(geometry->field[index].dtype) : 0;
        if (type == element->type[value])
            continue;
        TF_SetStatus(status, TF_INVALID_ARGUMENT,
                     "this function was made for a ring with other fields; make it again.");
        return false;
    }
    return true;
}

void rf_give_truth(TF_OpKernelContext *context, bool truth, TF_Status *status)
{
    TF_Tensor *tensor = TF_AllocateOutput(context, 0, TF_BOOL, NULL, 0, sizeof truth, status);
    if (TF_GetCode(status) != TF_OK)
        return;
    *(bool *)TF_TensorData(tensor) = truth;
    TF_DeleteTensor(tensor);
}
