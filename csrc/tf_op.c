/*
 * Two ops for TensorFlow, in a shared object of their own:
 *
 *     RingfeedNext(feed: int64) -> (rows: int64, values: types)    the next element of a feed
 *     RingfeedTurn(feed: int64) -> (goes_on: bool)                 may another turn begin?
 *
 * `values` lie over the ring's own memory; their deallocator drops the run, in whatever thread TensorFlow lets go
 * of the last of them, with atomics only. The end of a feed, or of its turn, is OUT_OF_RANGE.
 *
 * It may not know how an element comes to be (feed.c), nor Python. It is linked with nothing: TensorFlow's functions
 * are looked up in the library that is loaded, and feeds come through a table (rf_op_connect).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "feed.h"
#include "tf_api.h"

#define EXPORT __attribute__((visibility("default")))

enum { TAGS = -1 /* in the attribute `fields` */, TEXT_BYTES = 512, RING_NAME_BYTES = 256 };

static const char *why_not = "it was not loaded by TensorFlow";
static const rf_feed_table *_Atomic feeds;

#define DECLARE(result, name, arguments) static result(*name) arguments;
TF_FUNCTIONS(DECLARE)

/* ---- One element ---------------------------------------------------------------------------- */

/* What a node of a graph was made for. */
typedef struct element {
    char ring[RING_NAME_BYTES]; /* its name, for messages */
    int32_t count;
    int64_t field[RF_MAX_FIELDS + 1];
    TF_DataType type[RF_MAX_FIELDS + 1];
} element;

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
    atomic_load(&feeds)->drop(run);
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

static bool give_value(TF_OpKernelContext *context, int output, const element *element,
                       const rf_geometry *geometry, const rf_feed_table *table, rf_run *run,
                       TF_Status *status)
{
    int64_t index = element->field[output - 1];
    if (index == TAGS)
        return give_tags(context, output, table, run, status);
    TF_Tensor *tensor = tensor_over(table, run, &geometry->field[index], (uint32_t)index);
    if (!tensor) {
        TF_SetStatus(status, TF_UNKNOWN, "TensorFlow made no tensor over the ring's memory.");
        return false;
    }
    TF_SetOutput(context, output, tensor, status);
    TF_DeleteTensor(tensor);
    return TF_GetCode(status) == TF_OK;
}

static bool give_rows(TF_OpKernelContext *context, const rf_run *run, TF_Status *status)
{
    TF_Tensor *tensor = TF_AllocateOutput(context, 0, TF_INT64, NULL, 0, sizeof(int64_t), status);
    if (TF_GetCode(status) != TF_OK)
        return false;
    *(int64_t *)TF_TensorData(tensor) = run->rows;
    TF_DeleteTensor(tensor);
    return true;
}

static void give_run(TF_OpKernelContext *context, const element *element,
                     const rf_feed_table *table, rf_feed *feed, rf_run *run, TF_Status *status)
{
    const rf_geometry *geometry = table->geometry(feed);
    if (!give_rows(context, run, status))
        return;
    for (int output = 1; output <= element->count; output++)
        if (!give_value(context, output, element, geometry, table, run, status))
            return;
}

/* Has the feed's ring the fields that the node was made for? Asked before records are taken, which would be lost. */
static bool fits(const element *element, const rf_geometry *geometry, TF_Status *status)
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

/* ---- Kernels -------------------------------------------------------------------------------- */

/* The feed that the first input names, with a reference; NULL, and why. */
static rf_feed *named_feed(TF_OpKernelContext *context, const rf_feed_table *table,
                           const element *element, TF_Status *status)
{
    TF_Tensor *input = NULL;
    TF_GetInput(context, 0, &input, status);
    if (TF_GetCode(status) != TF_OK)
        return NULL;
    rf_feed *feed = NULL;
    if (table)
        feed = table->find(*(const uint64_t *)TF_TensorData(input));
    TF_DeleteTensor(input);
    if (!feed) {
        char text[TEXT_BYTES];
        snprintf(text, sizeof text,
                 "RingClosed: ring '%s': it was dropped before what reads it, or is another "
                 "process's. Keep it until "
                 "the last use, and make functions in the process that runs them.",
                 element->ring);
        TF_SetStatus(status, TF_UNKNOWN, text);
    }
    return feed;
}

static void set_status(TF_Status *status, const rf_feed_table *table, const rf_feed *feed,
                       rf_status what)
{
    char text[TEXT_BYTES];
    bool over = what == RF_AGAIN || what == RF_FINISHED;
    table->explain(feed, what, text, sizeof text);
    TF_SetStatus(status, over ? TF_OUT_OF_RANGE : TF_UNKNOWN, text);
}

static void compute_next(void *kernel, TF_OpKernelContext *context)
{
    const rf_feed_table *table = atomic_load(&feeds);
    TF_Status *status = TF_NewStatus();
    rf_feed *feed = named_feed(context, table, kernel, status);
    if (feed && fits(kernel, table->geometry(feed), status)) {
        rf_run *run;
        rf_status what = table->next(feed, &run);
        if (what == RF_OK) {
            give_run(context, kernel, table, feed, run, status);
            table->drop(run);
        } else {
            set_status(status, table, feed, what);
        }
    }
    if (feed)
        table->unref(feed);
    if (TF_GetCode(status) != TF_OK)
        TF_OpKernelContext_Failure(context, status);
    TF_DeleteStatus(status);
}

static void compute_turn(void *kernel, TF_OpKernelContext *context)
{
    const rf_feed_table *table = atomic_load(&feeds);
    TF_Status *status = TF_NewStatus();
    rf_feed *feed = named_feed(context, table, kernel, status);
    if (feed) {
        rf_status what = table->turn(feed);
        if (what == RF_OK) {
            TF_Tensor *tensor = TF_AllocateOutput(context, 0, TF_BOOL, NULL, 0, 1, status);
            if (TF_GetCode(status) == TF_OK) {
                *(uint8_t *)TF_TensorData(tensor) = 1;
                TF_DeleteTensor(tensor);
            }
        } else {
            set_status(status, table, feed, what);
        }
        table->unref(feed);
    }
    if (TF_GetCode(status) != TF_OK)
        TF_OpKernelContext_Failure(context, status);
    TF_DeleteStatus(status);
}

/* Any of the two ops; `values`: it has some. */
static void *create(TF_OpKernelConstruction *construction, bool values)
{
    TF_Status *status = TF_NewStatus();
    element *made = calloc(1, sizeof *made);
    int32_t total, fields = 0;
    const int most = RF_MAX_FIELDS + 1;
    if (!made)
        TF_SetStatus(status, TF_UNKNOWN, "no memory");
    else
        TF_OpKernelConstruction_GetAttrString(construction, "ring", made->ring,
                                              sizeof made->ring - 1, status);
    if (values && TF_GetCode(status) == TF_OK)
        TF_OpKernelConstruction_GetAttrSize(construction, "types", &made->count, &total, status);
    if (values && TF_GetCode(status) == TF_OK)
        TF_OpKernelConstruction_GetAttrSize(construction, "fields", &fields, &total, status);
    if (TF_GetCode(status) == TF_OK && (made->count > most || made->count != fields))
        TF_SetStatus(status, TF_INVALID_ARGUMENT,
                     "more values than a record has fields, or not a field for each");
    if (values && TF_GetCode(status) == TF_OK)
        TF_OpKernelConstruction_GetAttrTypeList(construction, "types", made->type, most, status);
    if (values && TF_GetCode(status) == TF_OK)
        TF_OpKernelConstruction_GetAttrInt64List(construction, "fields", made->field, most, status);
    if (TF_GetCode(status) != TF_OK) {
        TF_OpKernelConstruction_Failure(construction, status);
        free(made);
        made = NULL;
    }
    TF_DeleteStatus(status);
    return made;
}

static void *create_next(TF_OpKernelConstruction *construction)
{
    return create(construction, true);
}

static void *create_turn(TF_OpKernelConstruction *construction)
{
    return create(construction, false);
}

/* ---- Registration --------------------------------------------------------------------------- */

static void unknown_shape(TF_ShapeInferenceContext *context, TF_Status *status)
{
    TF_ShapeInferenceContextSetUnknownShape(context,
                                            status); /* Python knows the ring, and sets shapes */
}

/* For a GPU the kernel is the same: its input and outputs are in the host's memory there. */
static void register_kernels(const char *op, const char *const *outputs,
                             void *(*make)(TF_OpKernelConstruction *),
                             void (*compute)(void *, TF_OpKernelContext *), TF_Status *status)
{
    static const char *const devices[] = {"CPU", "GPU"};
    for (int device = 0; device < 2 && TF_GetCode(status) == TF_OK; device++) {
        TF_KernelBuilder *builder = TF_NewKernelBuilder(op, devices[device], make, compute, free);
        if (device == 1) {
            TF_KernelBuilder_HostMemory(builder, "feed");
            for (const char *const *output = outputs; *output; output++)
                TF_KernelBuilder_HostMemory(builder, *output);
        }
        TF_RegisterKernelBuilder(op, builder, status);
    }
}

/* Stateful: two calls with one input are two elements, and none is left out. */
static TF_OpDefinitionBuilder *define(const char *name)
{
    TF_OpDefinitionBuilder *op = TF_NewOpDefinitionBuilder(name);
    TF_OpDefinitionBuilderAddInput(op, "feed: int64");
    TF_OpDefinitionBuilderAddAttr(op, "ring: string");
    TF_OpDefinitionBuilderSetIsStateful(op, true);
    TF_OpDefinitionBuilderSetShapeInferenceFunction(op, unknown_shape);
    return op;
}

static void register_ops(TF_Status *status)
{
    static const char *const next_outputs[] = {"rows", "values", NULL};
    static const char *const turn_outputs[] = {"goes_on", NULL};
    TF_OpDefinitionBuilder *next = define("RingfeedNext"), *turn = define("RingfeedTurn");
    TF_OpDefinitionBuilderAddOutput(next, "rows: int64");
    TF_OpDefinitionBuilderAddOutput(next, "values: types");
    TF_OpDefinitionBuilderAddAttr(next, "types: list(type) >= 0");
    TF_OpDefinitionBuilderAddAttr(next, "fields: list(int) >= 0");
    TF_OpDefinitionBuilderAddOutput(turn, "goes_on: bool");
    TF_RegisterOpDefinition(next, status);
    if (TF_GetCode(status) == TF_OK)
        TF_RegisterOpDefinition(turn, status);
    if (TF_GetCode(status) == TF_OK)
        register_kernels("RingfeedNext", next_outputs, create_next, compute_next, status);
    if (TF_GetCode(status) == TF_OK)
        register_kernels("RingfeedTurn", turn_outputs, create_turn, compute_turn, status);
}

static bool find_functions(void)
{
    static char text[128];
    void *library = dlopen("libtensorflow_framework.so.2", RTLD_NOLOAD | RTLD_LAZY);
    if (!library) {
        why_not = "libtensorflow_framework.so.2 is not loaded: another TensorFlow, or none";
        return false;
    }
#define FIND(result, name, arguments)                                   \
    if (!(*(void **)&name = dlsym(library, #name))) {                   \
        strcpy(text, "this TensorFlow's C API lacks ");                 \
        why_not = strncat(text, #name, sizeof text - strlen(text) - 1); \
        return false;                                                   \
    }
    TF_FUNCTIONS(FIND)
    return true; /* the library stays open: its functions are called for as long as the process lives */
}

__attribute__((constructor)) static void on_load(void)
{
    static char text[TEXT_BYTES];
    if (!find_functions())
        return;
    TF_Status *status = TF_NewStatus();
    register_ops(status);
    if (TF_GetCode(status) == TF_OK)
        why_not = NULL;
    else
        why_not = strncpy(text, TF_Message(status), sizeof text - 1);
    TF_DeleteStatus(status);
}

/* Why the ops are not there; NULL when they are. */
EXPORT const char *rf_op_why_not(void)
{
    return why_not;
}

/* Say where feeds are. False: that is another version of the table. */
EXPORT int rf_op_connect(const rf_feed_table *table)
{
    if (table->version != RF_FEED_TABLE_VERSION)
        return 0;
    atomic_store(&feeds, table);
    return 1;
}
