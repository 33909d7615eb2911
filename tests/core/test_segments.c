/* Segments: creating and attaching, and the refusal of damaged or unknown ones. */
#include "layouts.h"
#include "segment/plan.h"

/* ---- Segments ------------------------------------------------------------------------------- */

static rf_ring *create_three_fields(uint32_t slots)
{
    rf_options options = options_for(slots);
    rf_geometry *geometry = three_fields();
    rf_ring *ring;
    plan_ok(&options, geometry);
    CHECK_EQUAL(rf_ring_create(create_segment(0), &options, geometry, &ring), RF_OK);
    CHECK(memcmp(rf_ring_geometry(ring), geometry, sizeof *geometry) == 0);
    free(geometry);
    return ring;
}

static void test_mirror(void)
{
    rf_ring *ring = create_three_fields(3), *other = attach_ring();
    const rf_geometry *geometry = rf_ring_geometry(ring);
    for (uint32_t i = 0; i < geometry->fields; i++) {
        uint64_t bytes = geometry->field[i].region_bytes;
        uint8_t *region = rf_ring_region(ring, i), *seen = rf_ring_region(other, i);
        CHECK_EQUAL((uintptr_t)region % RF_ALIGNMENT, 0);
        for (uint64_t at = 0; at < 2 * bytes; at += 4093)
            region[at] = (uint8_t)(at + i);
        for (uint64_t at = 0; at < bytes; at += 64)
            CHECK(region[at] == region[at + bytes] && seen[at] == region[at]);
        region[2 * bytes - 1] = 99;
        CHECK_EQUAL(seen[bytes - 1], 99);
    }
    close_ring(other);
    close_ring(ring);
}

static void test_attach_sees_the_geometry(void)
{
    rf_ring *ring = create_three_fields(5), *other = attach_ring();
    CHECK(memcmp(rf_ring_geometry(ring), rf_ring_geometry(other), sizeof(rf_geometry)) == 0);
    CHECK(rf_ring_is_owner(ring) && !rf_ring_is_owner(other));
    CHECK_EQUAL(rf_ring_creator_pid(other), getpid());
    CHECK_EQUAL(rf_segment_version(ring->fd), RF_LAYOUT_VERSION);
    close_ring(other);
    close_ring(ring);
}

static void test_huge_pages_and_locking(void)
{
    rf_options options = options_for(1);
    options.huge_pages = 1;
    options.numa_node = 0;
    rf_ring *ring = create_ring_as(&options, SAMPLE_BYTES);
    CHECK_EQUAL((uintptr_t)rf_ring_region(ring, 0) % (2 << 20), 0);
    CHECK(rf_ring_use_huge_pages(ring) >= 0); /* granted, or the errno of the refusal */
    CHECK(rf_ring_lock_memory(ring) >= 0);
    CHECK(rf_ring_numa_errno(ring) >= 0);
    rf_ring *other = attach_ring();
    put(ring, 5);
    take_expecting(other, 5);
    close_ring(other);
    close_ring(ring);
}

static void test_no_space(void)
{
    rf_options options = options_for(1);
    int fd = create_segment(0);
    uint64_t bytes = (uint64_t)rf_segment_free_bytes(fd) + (1 << 20);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, &bytes);
    rf_ring *ring;
    plan_ok(&options, geometry);
    CHECK_EQUAL(rf_ring_create(fd, &options, geometry, &ring), RF_NO_SPACE);
    CHECK(ring == NULL);
    free(geometry);
}

/* Three slots, and the label's region is padded: the memory behind the last slot is not the first slot. */
static void test_runs_of_a_padded_ring_end_with_it(void)
{
    rf_options options = options_for(3);
    rf_geometry *geometry = image_and_label(UINT64_C(2) << 20);
    rf_ring *ring;
    rf_lease *lease;
    uint64_t next = 0, seen = 0;
    plan_ok(&options, geometry);
    CHECK_EQUAL(rf_ring_create(create_segment(0), &options, geometry, &ring), RF_OK);
    free(geometry);
    rf_ring *other = attach_ring();
    CHECK(!rf_ring_is_mirrored(ring) && !rf_ring_is_mirrored(other));
    for (int round = 0; round < 20; round++) {
        CHECK_EQUAL(rf_claim(other, 1 + round % 3, 0, &lease), RF_OK);
        uint32_t rows = rf_lease_rows(lease), first = rf_lease_first(lease);
        CHECK(first + rows <= 3);
        for (uint32_t row = 0; row < rows; row++, next++) {
            ((uint64_t *)rf_lease_data(lease, 1))[row * 8] = next;
            memset((uint8_t *)rf_lease_data(lease, 0) + ((uint64_t)row << 21), (int)next, 2 << 20);
        }
        CHECK_EQUAL(rf_publish(lease, rows, NULL, 0), RF_OK);
        rf_lease_drop(lease);
        while (seen < next) {
            rf_take_request request = {.max_rows = 3, .min_rows = 1};
            CHECK_EQUAL(rf_take(ring, &request, &lease), RF_OK);
            CHECK(rf_lease_first(lease) + rf_lease_rows(lease) <= 3);
            for (uint32_t row = 0; row < rf_lease_rows(lease); row++, seen++) {
                CHECK_EQUAL(((uint64_t *)rf_lease_data(lease, 1))[row * 8], seen);
                CHECK_EQUAL(((uint8_t *)rf_lease_data(lease, 0))[((uint64_t)(row + 1) << 21) - 1],
                            (uint8_t)seen);
            }
            rf_lease_drop(lease);
        }
    }
    close_ring(other);
    close_ring(ring);
}

/* ---- Damaged and unknown segments ----------------------------------------------------------- */

static rf_status attach_status(void)
{
    rf_ring *ring;
    rf_status status = rf_ring_attach(open_segment(0), &ring);
    CHECK((status == RF_OK) == (ring != NULL));
    if (ring)
        close_ring(ring);
    return status;
}

static void test_unknown_starts(void)
{
    rf_ring *ring = create_three_fields(2);
    rf_header *header = ring->header;
    header->magic++;
    CHECK_EQUAL(attach_status(), RF_NOT_A_RING);
    CHECK_EQUAL(rf_segment_version(ring->fd), 0);
    header->magic = 0;
    CHECK_EQUAL(attach_status(), RF_UNFINISHED);
    header->magic = RF_MAGIC;
    header->layout_version = 77;
    CHECK_EQUAL(attach_status(), RF_WRONG_VERSION);
    CHECK_EQUAL(rf_segment_version(ring->fd), 77);
    header->layout_version = RF_LAYOUT_VERSION;
    atomic_store(&header->initialized, 0);
    CHECK_EQUAL(attach_status(), RF_UNFINISHED);
    atomic_store(&header->initialized, 1);
    CHECK_EQUAL(attach_status(), RF_OK);
    close_ring(ring);
}

static void test_short_files(void)
{
    int fd = create_segment(0);
    CHECK_EQUAL(attach_status(), RF_UNFINISHED);
    CHECK_EQUAL(ftruncate(fd, 100), 0);
    CHECK_EQUAL(attach_status(), RF_NOT_A_RING);
    CHECK_EQUAL(rf_segment_version(fd), 0);
    CHECK_EQUAL(ftruncate(fd, 1 << 20), 0);
    CHECK_EQUAL(attach_status(), RF_UNFINISHED); /* all zero: its creator has not finished */
    close(fd);
}

static void test_truncated(void)
{
    rf_ring *ring = create_three_fields(2);
    off_t whole = (off_t)rf_ring_geometry(ring)->segment_bytes;
    CHECK_EQUAL(ftruncate(ring->fd, whole - 1), 0);
    CHECK_EQUAL(attach_status(), RF_DAMAGED);
    CHECK_EQUAL(ftruncate(ring->fd, sizeof(rf_header)), 0);
    CHECK_EQUAL(attach_status(), RF_DAMAGED);
    CHECK_EQUAL(ftruncate(ring->fd, whole), 0);
    CHECK_EQUAL(attach_status(), RF_OK);
    close_ring(ring);
}

#define EXPECT_DAMAGED(field, value)              \
    do {                                          \
        __typeof__(field) before_ = (field);      \
        (field) = (__typeof__(field))(value);     \
        CHECK_EQUAL(attach_status(), RF_DAMAGED); \
        (field) = before_;                        \
        CHECK_EQUAL(attach_status(), RF_OK);      \
    } while (0)

static void test_damaged_field_by_field(void)
{
    rf_ring *ring = create_three_fields(2);
    rf_geometry *geometry = &ring->header->geometry;
    const uint64_t odd[] = {0, 1, 63, 64, 4097, UINT32_MAX, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < COUNT(odd); i++) {
        EXPECT_DAMAGED(geometry->slots, odd[i] + !!(geometry->slots == odd[i]));
        EXPECT_DAMAGED(geometry->page_bytes, odd[i]);
        EXPECT_DAMAGED(geometry->participants_offset, odd[i]);
        EXPECT_DAMAGED(geometry->words_offset, odd[i]);
        EXPECT_DAMAGED(geometry->slots_offset, odd[i]);
        EXPECT_DAMAGED(geometry->segment_bytes, odd[i]);
        for (uint32_t f = 0; f < geometry->fields; f++) {
            EXPECT_DAMAGED(geometry->field[f].sample_bytes, odd[i]);
            EXPECT_DAMAGED(geometry->field[f].stride_bytes, odd[i] == 64 ? 65 : odd[i]);
            EXPECT_DAMAGED(geometry->field[f].region_offset, odd[i]);
            EXPECT_DAMAGED(geometry->field[f].region_bytes, odd[i]);
        }
    }
    EXPECT_DAMAGED(geometry->page_bytes, 2 << 20);
    EXPECT_DAMAGED(geometry->fields, 0);
    EXPECT_DAMAGED(geometry->fields, 2);
    EXPECT_DAMAGED(geometry->fields, RF_MAX_FIELDS);
    EXPECT_DAMAGED(geometry->fields, UINT32_MAX);
    EXPECT_DAMAGED(geometry->participants, 0);
    EXPECT_DAMAGED(geometry->participants, UINT32_MAX);
    EXPECT_DAMAGED(geometry->field[0].dtype, RF_INT64);
    EXPECT_DAMAGED(geometry->field[0].dtype, 0);
    EXPECT_DAMAGED(geometry->field[0].dtype, UINT32_MAX);
    EXPECT_DAMAGED(geometry->field[0].rank, 1);
    EXPECT_DAMAGED(geometry->field[0].rank, UINT32_MAX);
    EXPECT_DAMAGED(geometry->field[0].shape[0], 0);
    EXPECT_DAMAGED(geometry->field[0].shape[2], 300);
    EXPECT_DAMAGED(geometry->field[0].shape[0], UINT64_MAX);
    EXPECT_DAMAGED(geometry->field[0].name[0], 0);
    EXPECT_DAMAGED(geometry->field[0].name[RF_NAME_BYTES - 1], 'x');
    close_ring(ring);
}

/* A segment that is accepted as a ring must be usable: every byte of its regions can be read. */
static uint64_t touch_all(rf_ring *ring)
{
    uint64_t sum = 0;
    const rf_geometry *geometry = rf_ring_geometry(ring);
    for (uint32_t i = 0; i < geometry->fields; i++) {
        const volatile uint8_t *region = rf_ring_region(ring, i);
        for (uint64_t at = 0; at < 2 * geometry->field[i].region_bytes; at += 4096)
            sum += region[at];
    }
    return sum;
}

static void test_every_damaged_byte(void)
{
    rf_ring *ring = create_ring(2);
    volatile uint8_t *bytes = (volatile uint8_t *)&ring->header->geometry;
    const uint8_t flips[] = {0xff, 0x01, 0x80};
    for (size_t at = 0; at < offsetof(rf_geometry, field) + sizeof(rf_field); at++) {
        for (size_t i = 0; i < COUNT(flips); i++) {
            rf_ring *other;
            bytes[at] ^= flips[i];
            rf_status status = rf_ring_attach(open_segment(0), &other);
            CHECK(status == RF_OK || status == RF_DAMAGED);
            if (status == RF_OK) {
                touch_all(other);
                close_ring(other);
            }
            bytes[at] ^= flips[i];
        }
    }
    close_ring(ring);
}

static const test tests[] = {
    {"runs of a ring with padded regions end at the ring's end",
     test_runs_of_a_padded_ring_end_with_it},
    {"a region is mapped a second time directly behind itself", test_mirror},
    {"a process that attaches sees the creator's geometry", test_attach_sees_the_geometry},
    {"huge pages, locked memory and NUMA binding are granted or refused with a reason",
     test_huge_pages_and_locking},
    {"a segment larger than the file system is refused before it is written", test_no_space},
    {"a wrong magic, a wrong version and an unfinished segment have a status each",
     test_unknown_starts},
    {"an empty or short file is not a ring", test_short_files},
    {"a truncated segment is damaged", test_truncated},
    {"a damaged header is refused, field by field", test_damaged_field_by_field},
    {"no damaged byte of the header leads out of bounds", test_every_damaged_byte},
};

MAIN(tests)
