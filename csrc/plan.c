/*
 * The plan of a segment: from fields and slots to the offset of every part, with overflow checks.
 *
 * It may not know of memory or files: it computes.
 */
#include <unistd.h>

#include "handle.h"

static const uint8_t dtype_bytes[RF_DTYPES] = {
    [RF_BOOL] = 1,    [RF_INT8] = 1,    [RF_INT16] = 2,     [RF_INT32] = 4,    [RF_INT64] = 8,
    [RF_UINT8] = 1,   [RF_UINT16] = 2,  [RF_UINT32] = 4,    [RF_UINT64] = 8,   [RF_FLOAT16] = 2,
    [RF_FLOAT32] = 4, [RF_FLOAT64] = 8, [RF_COMPLEX64] = 8, [RF_BFLOAT16] = 2,
};

uint32_t rf_dtype_bytes(uint32_t dtype)
{
    return dtype < RF_DTYPES ? dtype_bytes[dtype] : 0;
}

static bool multiply(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product) && *product <= INT64_MAX;
}

static bool round_up(uint64_t value, uint64_t unit, uint64_t *rounded)
{
    uint64_t sum;
    if (__builtin_add_overflow(value, unit - 1, &sum) || sum > INT64_MAX)
        return false;
    *rounded = sum / unit * unit;
    return true;
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static rf_status plan_field(rf_field *field)
{
    uint64_t bytes = rf_dtype_bytes(field->dtype);
    if (!bytes || field->rank > RF_MAX_RANK || !field->name[0] || field->name[RF_NAME_BYTES - 1])
        return RF_INVALID;
    for (uint32_t axis = 0; axis < field->rank; axis++) {
        if (field->shape[axis] == 0)
            return RF_INVALID;
        if (!multiply(bytes, field->shape[axis], &bytes))
            return RF_TOO_LARGE;
    }
    field->sample_bytes = bytes;
    return round_up(bytes, RF_ALIGNMENT, &field->stride_bytes) ? RF_OK : RF_TOO_LARGE;
}

/* Place a part of `bytes` on the next page. */
static bool place(uint64_t bytes, uint64_t page, uint64_t *end, uint64_t *offset)
{
    if (!round_up(*end, page, offset))
        return false;
    return !__builtin_add_overflow(*offset, bytes, end) && *end <= INT64_MAX;
}

rf_status rf_plan(const rf_options *options, rf_geometry *geometry)
{
    uint64_t page = options->huge_pages ? RF_HUGE_PAGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t slots = options->slots, unit = 1;
    if (slots == 0 || geometry->fields == 0 || geometry->fields > RF_MAX_FIELDS ||
        options->participants == 0 || options->participants > RF_MAX_PARTICIPANTS)
        return RF_INVALID;
    for (uint32_t i = 0; i < geometry->fields; i++) {
        rf_status status = plan_field(&geometry->field[i]);
        if (status != RF_OK)
            return status;
        /* Strides and pages are multiples of 64, units powers of two: the largest serves all. */
        uint64_t need = page / greatest_common_divisor(page, geometry->field[i].stride_bytes);
        unit = need > unit ? need : unit;
    }
    if (!round_up(slots, unit, &slots) || slots > RF_MAX_SLOTS)
        return RF_TOO_LARGE;
    geometry->slots = (uint32_t)slots;
    geometry->participants = options->participants;
    geometry->page_bytes = (uint32_t)page;
    uint64_t end = sizeof(rf_header);
    if (!place(geometry->participants * sizeof(rf_participant), page, &end,
               &geometry->participants_offset) ||
        !place(slots * 2 * sizeof(uint64_t), page, &end, &geometry->words_offset) ||
        !place(slots * (sizeof(rf_slot) + sizeof(rf_use)), page, &end, &geometry->slots_offset))
        return RF_TOO_LARGE;
    for (uint32_t i = 0; i < geometry->fields; i++) {
        rf_field *field = &geometry->field[i];
        if (!multiply(slots, field->stride_bytes, &field->region_bytes) ||
            !place(field->region_bytes, page, &end, &field->region_offset))
            return RF_TOO_LARGE;
    }
    return round_up(end, page, &geometry->segment_bytes) ? RF_OK : RF_TOO_LARGE;
}
