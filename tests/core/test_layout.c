/* The position of each region in a segment, and the segments that are refused. */
#include "layouts.h"
#include "segment/plan.h"

static const struct {
    uint32_t dtype;
    uint64_t bytes;
} dtypes[] = {
    {RF_BOOL, 1},    {RF_INT8, 1},    {RF_INT16, 2},     {RF_INT32, 4},    {RF_INT64, 8},
    {RF_UINT8, 1},   {RF_UINT16, 2},  {RF_UINT32, 4},    {RF_UINT64, 8},   {RF_FLOAT16, 2},
    {RF_FLOAT32, 4}, {RF_FLOAT64, 8}, {RF_COMPLEX64, 8}, {RF_BFLOAT16, 2},
};

/* ---- Plans ---------------------------------------------------------------------------------- */

static void test_dtypes(void)
{
    CHECK_EQUAL(COUNT(dtypes), RF_DTYPES - 1);
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        CHECK_EQUAL(rf_dtype_bytes(dtypes[i].dtype), dtypes[i].bytes);
        for (uint64_t elements = 1; elements < 300; elements += 7) {
            rf_options options = options_for(1);
            rf_geometry *geometry = geometry_of(dtypes[i].dtype, 1, &elements);
            plan_ok(&options, geometry);
            rf_field *field = &geometry->field[0];
            CHECK_EQUAL(field->sample_bytes, elements * dtypes[i].bytes);
            CHECK_EQUAL(field->stride_bytes % RF_ALIGNMENT, 0);
            CHECK(field->stride_bytes >= field->sample_bytes);
            CHECK(field->stride_bytes < field->sample_bytes + RF_ALIGNMENT);
            free(geometry);
        }
    }
}

static void test_unknown_dtypes(void)
{
    const uint32_t unknown[] = {0, RF_DTYPES, 255, UINT32_MAX};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        rf_options options = options_for(1);
        rf_geometry *geometry = geometry_of(unknown[i], 1, (uint64_t[]){8});
        CHECK_EQUAL(rf_dtype_bytes(unknown[i]), 0);
        CHECK_EQUAL(rf_plan(&options, geometry), RF_INVALID);
        free(geometry);
    }
}

static void expect_parts_apart(const rf_geometry *geometry)
{
    uint64_t page = geometry->page_bytes, end = geometry->slots_offset;
    CHECK(geometry->participants_offset >= sizeof(rf_header));
    CHECK(geometry->words_offset >=
          geometry->participants_offset + geometry->participants * sizeof(rf_participant));
    CHECK(geometry->slots_offset >=
          geometry->words_offset + geometry->slots * 2 * sizeof(uint64_t));
    end += geometry->slots * (sizeof(rf_slot) + sizeof(rf_use));
    for (uint32_t i = 0; i < geometry->fields; i++) {
        const rf_field *field = &geometry->field[i];
        CHECK(field->region_offset >= end);
        CHECK_EQUAL(field->region_offset % page, 0);
        CHECK_EQUAL(field->region_bytes % page, 0);
        CHECK(field->region_bytes >= geometry->slots * field->stride_bytes);
        CHECK(field->region_bytes < geometry->slots * field->stride_bytes + page);
        CHECK(!rf_is_mirrored(geometry) ||
              field->region_bytes == geometry->slots * field->stride_bytes);
        end = field->region_offset + field->region_bytes;
    }
    CHECK(geometry->segment_bytes >= end);
}

static void test_regions(void)
{
    for (uint32_t slots = 1; slots < 300; slots += 13) {
        for (uint32_t huge = 0; huge < 2; huge++) {
            rf_options options = options_for(slots);
            options.huge_pages = huge;
            rf_geometry *geometry = three_fields();
            plan_ok(&options, geometry);
            CHECK(geometry->slots >= slots);
            CHECK_EQUAL(geometry->page_bytes, huge ? 2 << 20 : sysconf(_SC_PAGESIZE));
            CHECK_EQUAL(geometry->field[2].sample_bytes, 8); /* rank 0: one number */
            expect_parts_apart(geometry);
            rf_geometry *again = malloc(sizeof *again);
            *again = *geometry;
            options.slots = geometry->slots;
            plan_ok(&options, again);
            CHECK(memcmp(geometry, again, sizeof *again) == 0);
            free(again);
            free(geometry);
        }
    }
}

static const struct {
    uint32_t slots;
    uint32_t huge_pages;
    uint64_t bytes;
    uint32_t rounded; /* 0: padded, so that there are exactly as many slots as requested */
} roundings[] = {
    {2, 0, UINT64_C(64) << 20, 0},
    {1, 0, UINT64_C(8) << 30, 0},
    {2, 1, UINT64_C(64) << 20, 0},
    {2, 0, 1000, 64},
    {8, 0, 4096, 64},
    {100, 0, 224 * 224 * 3, 128},
    {256, 0, 224 * 224 * 3, 256},
    {65, 0, 1 << 20, 0},
    {3, 1, 300000, 0},
    {32768, 1, 64, 32768},
    {63, 0, 1 << 20, 64},
};

static void test_rounding(void)
{
    for (size_t i = 0; i < COUNT(roundings); i++) {
        rf_options options = options_for(roundings[i].slots);
        options.huge_pages = roundings[i].huge_pages;
        rf_geometry *geometry = image_and_label(roundings[i].bytes),
                    *exactly = malloc(sizeof *exactly);
        plan_ok(&options, geometry);
        CHECK_EQUAL(rf_is_mirrored(geometry), roundings[i].rounded != 0);
        CHECK_EQUAL(geometry->slots, roundings[i].rounded ? roundings[i].rounded : options.slots);
        expect_parts_apart(geometry);
        *exactly = *geometry;
        rf_options as_planned = options;
        as_planned.slots = geometry->slots;
        CHECK_EQUAL(rf_plan_exactly(&as_planned, exactly), RF_OK);
        CHECK(memcmp(exactly, geometry, sizeof *exactly) ==
              0); /* a process that attaches finds the same */
        CHECK_EQUAL(rf_plan_exactly(&options, exactly), RF_OK);
        uint64_t least = exactly->segment_bytes, spare = least / 3 > 1 << 20 ? least / 3 : 1 << 20;
        CHECK(geometry->segment_bytes <= least + spare);
        free(exactly);
        free(geometry);
    }
}

static rf_status plan_shape(uint32_t slots, uint32_t rank, const uint64_t *shape)
{
    rf_options options = options_for(slots);
    rf_geometry *geometry = geometry_of(RF_FLOAT64, rank, shape);
    rf_status status = rf_plan(&options, geometry);
    free(geometry);
    return status;
}

static void test_overflow(void)
{
    CHECK_EQUAL(plan_shape(1, 1, (uint64_t[]){UINT64_MAX}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(1, 1, (uint64_t[]){UINT64_C(1) << 60}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(1, 1, (uint64_t[]){(UINT64_C(1) << 60) - 1}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(1, 1, (uint64_t[]){UINT64_C(1) << 61}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(1, 2, (uint64_t[]){UINT64_C(1) << 32, UINT64_C(1) << 32}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(1, 3, (uint64_t[]){UINT64_MAX, UINT64_MAX, 2}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(1 << 20, 1, (uint64_t[]){UINT64_C(1) << 41}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape((1 << 24) + 1, 1, (uint64_t[]){8}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(UINT32_MAX, 1, (uint64_t[]){8}), RF_TOO_LARGE);
    CHECK_EQUAL(plan_shape(1 << 24, 1, (uint64_t[]){8}), RF_OK);
}

static void test_many_large_fields(void)
{
    rf_options options = options_for(1 << 20);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, (uint64_t[]){UINT64_C(1) << 37});
    geometry->fields = RF_MAX_FIELDS; /* each 2^57 bytes, together 2^63 */
    for (uint32_t i = 1; i < RF_MAX_FIELDS; i++)
        geometry->field[i] = geometry->field[0];
    CHECK_EQUAL(rf_plan(&options, geometry), RF_TOO_LARGE);
    free(geometry);
}

static void expect_invalid(void (*spoil)(rf_options *, rf_geometry *))
{
    rf_options options = options_for(4);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, (uint64_t[]){8});
    spoil(&options, geometry);
    CHECK_EQUAL(rf_plan(&options, geometry), RF_INVALID);
    free(geometry);
}

#define SPOIL(name, what)                                        \
    static void name(rf_options *options, rf_geometry *geometry) \
    {                                                            \
        (void)options, (void)geometry;                           \
        what;                                                    \
    }

SPOIL(no_slots, options->slots = 0)
SPOIL(no_participants, options->participants = 0)
SPOIL(crowd, options->participants = RF_MAX_PARTICIPANTS + 1)
SPOIL(no_fields, geometry->fields = 0)
SPOIL(many_fields, geometry->fields = RF_MAX_FIELDS + 1)
SPOIL(high_rank, geometry->field[0].rank = RF_MAX_RANK + 1)
SPOIL(empty_axis, geometry->field[0].shape[0] = 0)
SPOIL(no_name, geometry->field[0].name[0] = 0)
SPOIL(endless_name, memset(geometry->field[0].name, 'x', RF_NAME_BYTES))

static void test_invalid_plans(void)
{
    void (*const spoils[])(rf_options *, rf_geometry *) = {
        no_slots,  no_participants, crowd,   no_fields,    many_fields,
        high_rank, empty_axis,      no_name, endless_name,
    };
    for (size_t i = 0; i < COUNT(spoils); i++)
        expect_invalid(spoils[i]);
}

static const test tests[] = {
    {"the stride of a sample is its bytes rounded up to 64, for every dtype", test_dtypes},
    {"an unknown dtype is refused", test_unknown_dtypes},
    {"regions are full pages, do not overlap, and two plans are equal", test_regions},
    {"slots are rounded up if this costs little memory, and otherwise stay as requested",
     test_rounding},
    {"a size that overflows is too large", test_overflow},
    {"fields that together are too large are refused", test_many_large_fields},
    {"an invalid plan is refused", test_invalid_plans},
};

MAIN(tests)
