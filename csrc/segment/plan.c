/*
 * The plan of a segment: from fields and slots to the offset of every part, with overflow checks.
 *
 * It may not know memory or files: it computes.
 */
#include "segment/plan.h"

#include <string.h>
#include <unistd.h>

/* So much more memory, or a third more, is accepted for batches that pass the ring's end. */
enum { ROUNDING_BYTES = 1 << 20 };

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

/* Lay out exactly so many slots: the tables, then each field's region, padded to whole pages. */
static rf_status lay_out(uint64_t slots, rf_geometry *geometry)
{
    uint64_t page = geometry->page_bytes, end = sizeof(rf_header);
    if (slots > RF_MAX_SLOTS)
        return RF_TOO_LARGE;
    geometry->slots = (uint32_t)slots;
    if (!place(geometry->participants * sizeof(rf_participant), page, &end,
               &geometry->participants_offset) ||
        !place(slots * 2 * sizeof(uint64_t), page, &end, &geometry->words_offset) ||
        !place(slots * (sizeof(rf_slot) + sizeof(rf_use)), page, &end, &geometry->slots_offset))
        return RF_TOO_LARGE;
    for (uint32_t i = 0; i < geometry->fields; i++) {
        rf_field *field = &geometry->field[i];
        if (!multiply(slots, field->stride_bytes, &field->region_bytes) ||
            !round_up(field->region_bytes, page, &field->region_bytes) ||
            !place(field->region_bytes, page, &end, &field->region_offset))
            return RF_TOO_LARGE;
    }
    return round_up(end, page, &geometry->segment_bytes) ? RF_OK : RF_TOO_LARGE;
}

/* From the fields alone: their strides, and the least number of slots that fill whole pages of
 * each. */
static rf_status plan_fields(const rf_options *options, rf_geometry *geometry, uint64_t *unit)
{
    uint64_t page = options->huge_pages ? RF_HUGE_PAGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE);
    if (options->slots == 0 || geometry->fields == 0 || geometry->fields > RF_MAX_FIELDS ||
        options->participants == 0 || options->participants > RF_MAX_PARTICIPANTS)
        return RF_INVALID;
    geometry->participants = options->participants;
    geometry->page_bytes = (uint32_t)page;
    *unit = 1;
    for (uint32_t i = 0; i < geometry->fields; i++) {
        rf_status status = plan_field(&geometry->field[i]);
        if (status != RF_OK)
            return status;
        /* Strides and pages are multiples of 64, and units are powers of two: the largest
         * serves all. */
        uint64_t need = page / greatest_common_divisor(page, geometry->field[i].stride_bytes);
        *unit = need > *unit ? need : *unit;
    }
    return RF_OK;
}

rf_status rf_plan_exactly(const rf_options *options, rf_geometry *geometry)
{
    uint64_t unit;
    rf_status status = plan_fields(options, geometry, &unit);
    return status == RF_OK ? lay_out(options->slots, geometry) : status;
}

/* Regions of whole pages can be mapped twice in a row, so that a run may pass the ring's end.
 * A few more slots are worth that. But beside a sample of 64 bytes, a sample of 64 MB would
 * get 64 slots when 2 were asked for. In that case the regions are padded instead, and runs
 * end at the ring's end (rf_rows_from). */
rf_status rf_plan(const rf_options *options, rf_geometry *geometry)
{
    uint64_t unit, rounded;
    rf_status status = plan_fields(options, geometry, &unit);
    if (status == RF_OK)
        status = lay_out(options->slots, geometry);
    if (status != RF_OK || options->slots % unit == 0 || !round_up(options->slots, unit, &rounded))
        return status;
    uint64_t asked = geometry->segment_bytes;
    uint64_t most = asked / 3 > ROUNDING_BYTES ? asked / 3 : ROUNDING_BYTES;
    if (lay_out(rounded, geometry) == RF_OK && geometry->segment_bytes - asked <= most)
        return RF_OK;
    return lay_out(options->slots, geometry);
}

bool rf_is_mirrored(const rf_geometry *geometry)
{
    for (uint32_t i = 0; i < geometry->fields; i++)
        if (geometry->field[i].region_bytes != geometry->slots * geometry->field[i].stride_bytes)
            return false;
    return true;
}

rf_status rf_check_geometry(const rf_geometry *claimed, uint64_t file_bytes, rf_geometry *checked)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (claimed->page_bytes != page && claimed->page_bytes != RF_HUGE_PAGE_BYTES)
        return RF_DAMAGED;
    rf_options options = {.slots = claimed->slots,
                          .participants = claimed->participants,
                          .huge_pages = claimed->page_bytes != page};
    *checked = *claimed;
    if (rf_plan_exactly(&options, checked) != RF_OK ||
        memcmp(checked, claimed, sizeof *claimed) != 0 || checked->segment_bytes > file_bytes)
        return RF_DAMAGED;
    return RF_OK;
}
