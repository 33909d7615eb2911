/*
 * Three ops for TensorFlow, in their own shared object:
 *
 *     RingfeedNext(feed: int64) -> (rows: int64, ticket: int64, values: types)    the next element of a feed
 *     RingfeedRound(feed: int64) -> (goes_on: bool)                               whether another round may begin
 *     RingfeedDeliver(ticket: int64) -> (was_waited_for: bool)                    a consumer has received an element
 *
 * `values` lie over the ring's own memory (tensors.c). The end of a feed, or of its round, is OUT_OF_RANGE.
 *
 * This file may not know how a feed gathers an element, or Python. The shared object is linked with nothing: it finds
 * TensorFlow's functions in the library that the process has loaded, and gets a table of the feeds' functions
 * (rf_op_connect).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tf_op/tensors.h"

#define EXPORT __attribute__((visibility("default")))

enum { TEXT_BYTES = 512 + RF_FAILURE_BYTES };

static const char *why_not = "TensorFlow did not load it";

#define DEFINE(result, name, arguments) result(*name) arguments;
TF_FUNCTIONS(DEFINE)

/* ---- Kernels -------------------------------------------------------------------------------- */

/* The feed with the number in the first input, with a reference. NULL: `status` says why there is none. */
static rf_feed *named_feed(TF_OpKernelContext *context, const rf_feed_table *table,
                           const rf_node *node, TF_Status *status)
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
        snprintf(
            text, sizeof text,
            "RingClosed: ring '%s': it was dropped before its reader, or it belongs to another "
            "process. Keep it until the last use, and make functions in the process that "
            "runs them.",
            node->ring);
        TF_SetStatus(status, TF_UNKNOWN, text);
    }
    return feed;
}

static void set_status(TF_Status *status, const rf_feed_table *table, const rf_feed *feed,
                       rf_status why)
{
    char text[TEXT_BYTES];
    bool over = why == RF_AGAIN || why == RF_FINISHED;
    table->explain(feed, why, text, sizeof text);
    TF_SetStatus(status, over ? TF_OUT_OF_RANGE : TF_UNKNOWN, text);
}

/* End a kernel's run: report the error, if there is one. */
static void end_run(TF_OpKernelContext *context, TF_Status *status)
{
    if (TF_GetCode(status) != TF_OK)
        TF_OpKernelContext_Failure(context, status);
    TF_DeleteStatus(status);
}

static void compute_next(void *kernel, TF_OpKernelContext *context)
{
    const rf_feed_table *table = atomic_load(&rf_op_feeds);
    TF_Status *status = TF_NewStatus();
    rf_feed *feed = named_feed(context, table, kernel, status);
    if (feed && rf_node_fits(kernel, table->geometry(feed), status)) {
        rf_element *element;
        rf_status found = table->next(feed, &element);
        if (found == RF_OK) {
            rf_set_element(context, kernel, table, feed, element, status);
            table->drop(element);
        } else {
            set_status(status, table, feed, found);
        }
    }
    if (feed)
        table->unref(feed);
    end_run(context, status);
}

static void compute_deliver(void *kernel, TF_OpKernelContext *context)
{
    (void)kernel;
    const rf_feed_table *table = atomic_load(&rf_op_feeds);
    TF_Status *status = TF_NewStatus();
    TF_Tensor *input = NULL;
    TF_GetInput(context, 0, &input, status);
    if (TF_GetCode(status) == TF_OK) {
        rf_set_bool(context, table && table->deliver(*(const int64_t *)TF_TensorData(input)),
                    status);
        TF_DeleteTensor(input);
    }
    end_run(context, status);
}

static void compute_round(void *kernel, TF_OpKernelContext *context)
{
    const rf_feed_table *table = atomic_load(&rf_op_feeds);
    TF_Status *status = TF_NewStatus();
    rf_feed *feed = named_feed(context, table, kernel, status);
    if (feed) {
        rf_status found = table->begin_round(feed);
        if (found == RF_OK)
            rf_set_bool(context, true, status);
        else
            set_status(status, table, feed, found);
        table->unref(feed);
    }
    end_run(context, status);
}

/* Create a kernel that reads a feed. `values`: its node has attributes for values. */
static void *create(TF_OpKernelConstruction *construction, bool values)
{
    TF_Status *status = TF_NewStatus();
    rf_node *made = calloc(1, sizeof *made);
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
                     "more values than a record has fields, or not one field for each value");
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

static void *create_round(TF_OpKernelConstruction *construction)
{
    return create(construction, false);
}

static void *create_deliver(TF_OpKernelConstruction *construction)
{
    (void)construction;
    return malloc(1); /* the kernel has no state, but NULL would be an error */
}

/* ---- Registration --------------------------------------------------------------------------- */

static void unknown_shape(TF_ShapeInferenceContext *context, TF_Status *status)
{
    /* Python knows the ring, and sets the shapes. */
    TF_ShapeInferenceContextSetUnknownShape(context, status);
}

/* A GPU has the same kernel: its input and outputs lie in the host's memory. */
static void register_kernels(const char *op, const char *const *arguments,
                             void *(*make)(TF_OpKernelConstruction *),
                             void (*compute)(void *, TF_OpKernelContext *), TF_Status *status)
{
    static const char *const devices[] = {"CPU", "GPU"};
    for (int device = 0; device < 2 && TF_GetCode(status) == TF_OK; device++) {
        TF_KernelBuilder *builder = TF_NewKernelBuilder(op, devices[device], make, compute, free);
        if (device == 1) {
            for (const char *const *argument = arguments; *argument; argument++)
                TF_KernelBuilder_HostMemory(builder, *argument);
        }
        TF_RegisterKernelBuilder(op, builder, status);
    }
}

/* Stateful: two calls with the same input give two elements, and TensorFlow omits neither. */
static TF_OpDefinitionBuilder *define(const char *name, const char *input)
{
    TF_OpDefinitionBuilder *op = TF_NewOpDefinitionBuilder(name);
    TF_OpDefinitionBuilderAddInput(op, input);
    TF_OpDefinitionBuilderSetIsStateful(op, true);
    TF_OpDefinitionBuilderSetShapeInferenceFunction(op, unknown_shape);
    return op;
}

static void register_next(TF_Status *status)
{
    static const char *const arguments[] = {"feed", "rows", "ticket", "values", NULL};
    TF_OpDefinitionBuilder *op = define("RingfeedNext", "feed: int64");
    TF_OpDefinitionBuilderAddOutput(op, "rows: int64");
    TF_OpDefinitionBuilderAddOutput(op, "ticket: int64");
    TF_OpDefinitionBuilderAddOutput(op, "values: types");
    TF_OpDefinitionBuilderAddAttr(op, "ring: string");
    TF_OpDefinitionBuilderAddAttr(op, "types: list(type) >= 0");
    TF_OpDefinitionBuilderAddAttr(op, "fields: list(int) >= 0");
    TF_RegisterOpDefinition(op, status);
    if (TF_GetCode(status) == TF_OK)
        register_kernels("RingfeedNext", arguments, create_next, compute_next, status);
}

static void register_round(TF_Status *status)
{
    static const char *const arguments[] = {"feed", "goes_on", NULL};
    TF_OpDefinitionBuilder *op = define("RingfeedRound", "feed: int64");
    TF_OpDefinitionBuilderAddOutput(op, "goes_on: bool");
    TF_OpDefinitionBuilderAddAttr(op, "ring: string");
    TF_RegisterOpDefinition(op, status);
    if (TF_GetCode(status) == TF_OK)
        register_kernels("RingfeedRound", arguments, create_round, compute_round, status);
}

static void register_deliver(TF_Status *status)
{
    static const char *const arguments[] = {"ticket", "was_waited_for", NULL};
    TF_OpDefinitionBuilder *op = define("RingfeedDeliver", "ticket: int64");
    TF_OpDefinitionBuilderAddOutput(op, "was_waited_for: bool");
    TF_RegisterOpDefinition(op, status);
    if (TF_GetCode(status) == TF_OK)
        register_kernels("RingfeedDeliver", arguments, create_deliver, compute_deliver, status);
}

static void register_ops(TF_Status *status)
{
    static void (*const each[])(TF_Status *) = {register_next, register_round, register_deliver};
    for (size_t i = 0; i < sizeof each / sizeof *each && TF_GetCode(status) == TF_OK; i++)
        each[i](status);
}

static bool find_functions(void)
{
    static char text[128];
    void *library = dlopen("libtensorflow_framework.so.2", RTLD_NOLOAD | RTLD_LAZY);
    if (!library) {
        why_not = "libtensorflow_framework.so.2 is not loaded; this is another TensorFlow, or "
                  "there is none";
        return false;
    }
#define FIND(result, name, arguments)                                   \
    if (!(*(void **)&name = dlsym(library, #name))) {                   \
        strcpy(text, "this TensorFlow's C API lacks ");                 \
        why_not = strncat(text, #name, sizeof text - strlen(text) - 1); \
        return false;                                                   \
    }
    TF_FUNCTIONS(FIND)
    return true; /* the library stays open, because the ops call its functions until the process ends */
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

/* Why the ops are missing; NULL: they are registered. */
EXPORT const char *rf_op_why_not(void)
{
    return why_not;
}

/* Take the table of the feeds' functions. False: its version is not ours. */
EXPORT int rf_op_connect(const rf_feed_table *table)
{
    if (table->version != RF_FEED_TABLE_VERSION)
        return 0;
    atomic_store(&rf_op_feeds, table);
    return 1;
}
