/*
 * A lease as a DLPack tensor: https://dmlc.github.io/dlpack/latest/ (C API, versions 0.8 and 1.0).
 *
 * It may not know the slot protocol. The tensor holds one reference to the lease, or a copy of its rows. Its deleter
 * drops it, on any thread, without a lock.
 */
#include <stdlib.h>
#include <string.h>

#include "ring/lease.h"

enum { DL_CPU = 1 };
enum { DL_READ_ONLY = 1 << 0, DL_IS_COPIED = 1 << 1 };
enum { DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_COMPLEX = 5, DL_BOOL = 6 };

typedef struct dl_tensor {
    void *data;
    struct {
        int32_t device_type;
        int32_t device_id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code;
        uint8_t bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape;
    int64_t *strides; /* in elements */
    uint64_t byte_offset;
} dl_tensor;

typedef struct dl_managed {
    dl_tensor tensor;
    void *context;
    void (*deleter)(struct dl_managed *self);
} dl_managed;

typedef struct dl_managed_versioned {
    struct {
        uint32_t major;
        uint32_t minor;
    } version;
    void *context;
    void (*deleter)(struct dl_managed_versioned *self);
    uint64_t flags;
    dl_tensor tensor;
} dl_managed_versioned;

/* Either form, with room for the shape and strides that its tensor points at. */
typedef struct export {
    union {
        dl_managed plain;
        dl_managed_versioned versioned;
    } managed;       /* first, so that the consumer's pointer is also ours */
    rf_lease *lease; /* NULL: the data are ours */
    void *copy;
    int64_t shape[RF_MAX_RANK + 1];
    int64_t strides[RF_MAX_RANK + 1];
} export;

static void drop_export(export *self)
{
    if (self->lease)
        rf_lease_drop(self->lease);
    free(self->copy);
    free(self);
}

static void delete_plain(dl_managed *self)
{
    drop_export((export *)self);
}

static void delete_versioned(dl_managed_versioned *self)
{
    drop_export((export *)self);
}

static uint8_t type_code(uint32_t dtype)
{
    switch (dtype) {
    case RF_BOOL: return DL_BOOL;
    case RF_INT8:
    case RF_INT16:
    case RF_INT32:
    case RF_INT64: return DL_INT;
    case RF_FLOAT16:
    case RF_FLOAT32:
    case RF_FLOAT64: return DL_FLOAT;
    case RF_COMPLEX64: return DL_COMPLEX;
    case RF_BFLOAT16: return DL_BFLOAT;
    default: return DL_UINT;
    }
}

/* Copy the lease's rows of a field, one sample behind the other, into memory of their own. */
static void *copy_rows(const rf_lease *lease, const rf_field *field, uint32_t index, rf_view view)
{
    uint32_t rows = view == RF_VIEW_SAMPLE ? 1 : lease->rows;
    uint64_t bytes = view == RF_VIEW_PADDED ? field->stride_bytes : field->sample_bytes;
    const uint8_t *from = rf_lease_data(lease, index);
    uint8_t *copy = aligned_alloc(RF_ALIGNMENT,
                                  (rows * bytes + RF_ALIGNMENT - 1) / RF_ALIGNMENT * RF_ALIGNMENT);
    if (!copy)
        return NULL;
    for (uint32_t row = 0; row < rows; row++)
        memcpy(copy + row * bytes, from + row * field->stride_bytes, bytes);
    return copy;
}

static void describe(export *self, dl_tensor *tensor, const rf_lease *lease, uint32_t field_index,
                     rf_view view)
{
    const rf_field *field = &lease->ring->geometry.field[field_index];
    uint32_t element = rf_dtype_bytes(field->dtype);
    int32_t axis = 0;
    if (view != RF_VIEW_SAMPLE) {
        bool dense = self->copy && view == RF_VIEW_ROWS;
        self->shape[axis] = lease->rows;
        self->strides[axis++] =
            (int64_t)((dense ? field->sample_bytes : field->stride_bytes) / element);
    }
    if (view == RF_VIEW_PADDED) {
        self->shape[axis] = (int64_t)(field->stride_bytes / element);
        self->strides[axis++] = 1;
    } else {
        int64_t step = 1;
        for (int32_t inner = (int32_t)field->rank - 1; inner >= 0; inner--) {
            self->shape[axis + inner] = (int64_t)field->shape[inner];
            self->strides[axis + inner] = step;
            step *= self->shape[axis + inner];
        }
        axis += (int32_t)field->rank;
    }
    tensor->data = self->copy ? self->copy : rf_lease_data(lease, field_index);
    tensor->device.device_type = DL_CPU;
    tensor->ndim = axis;
    tensor->dtype.code = type_code(field->dtype);
    tensor->dtype.bits = (uint8_t)(element * 8);
    tensor->dtype.lanes = 1;
    tensor->shape = self->shape;
    tensor->strides = self->strides;
}

void *rf_lease_export(rf_lease *lease, uint32_t field, rf_view view, const rf_export_form *form)
{
    export *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    if (form->copied) {
        self->copy = copy_rows(lease, &lease->ring->geometry.field[field], field, view);
        if (!self->copy) {
            free(self);
            return NULL;
        }
    } else {
        rf_lease_retain(lease);
        self->lease = lease;
    }
    if (form->versioned) {
        self->managed.versioned.version.major = 1;
        self->managed.versioned.deleter = delete_versioned;
        self->managed.versioned.flags = form->copied      ? DL_IS_COPIED
                                        : form->read_only ? DL_READ_ONLY
                                                          : 0;
        describe(self, &self->managed.versioned.tensor, lease, field, view);
    } else {
        self->managed.plain.deleter = delete_plain;
        describe(self, &self->managed.plain.tensor, lease, field, view);
    }
    return self;
}

void rf_export_make_read_only(void *tensor)
{
    ((dl_managed_versioned *)tensor)->flags |= DL_READ_ONLY;
}

void rf_export_delete(void *tensor, int versioned)
{
    if (versioned)
        ((dl_managed_versioned *)tensor)->deleter(tensor);
    else
        ((dl_managed *)tensor)->deleter(tensor);
}
