/* Copies past the caches (streaming.h): they copy the same bytes, and the faster way is chosen. */
#include "chance.h"
#include "check.h"
#include "ring/streaming.h"

enum { SLOTS = 16, MOST_BYTES = 1 << 17, GUARD = 64 };

static void fill_at_random(uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)random_below(256);
}

/* Copies from any address, of any length, write no other byte. */
static void test_same_bytes(void)
{
    static _Alignas(64) uint8_t to[4096 + GUARD];
    static uint8_t from[4096 + 64], before[sizeof to];
    seed(1);
    for (size_t bytes = 0; bytes <= 4096; bytes += bytes < 300 ? 1 : 61)
        for (size_t offset = 0; offset < 64; offset += bytes < 300 ? 1 : 13) {
            fill_at_random(from, sizeof from);
            fill_at_random(to, sizeof to);
            memcpy(before, to, sizeof to);
            rf_stream(to, from + offset, bytes);
            rf_end_streaming();
            CHECK(memcmp(to, from + offset, bytes) == 0);
            CHECK(memcmp(to + bytes, before + bytes, sizeof to - bytes) == 0);
        }
}

static rf_ring *ring_of(const uint64_t *field_bytes, uint32_t fields, uint32_t slots)
{
    rf_options options = options_for(slots);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, field_bytes);
    geometry->fields = fields;
    for (uint32_t field = 1; field < fields; field++) {
        geometry->field[field] = geometry->field[0];
        geometry->field[field].name[0] = (char)('x' + field);
        geometry->field[field].shape[0] = field_bytes[field];
    }
    rf_ring *ring;
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    CHECK_EQUAL(rf_ring_create(create_segment(0), &options, geometry, &ring), RF_OK);
    free(geometry);
    return ring;
}

static void remove_ring(rf_ring *ring)
{
    close_ring(ring);
    CHECK_EQUAL(shm_unlink(segment_name(0)), 0);
}

/* Record timings that make streaming, or plain copies, the faster way. */
static void prefer(rf_ring *ring, bool streamed)
{
    for (unsigned way = 0; way < RF_COPY_WAYS; way++)
        rf_store_relaxed(&ring->copies.ns_per_mib[way],
                         (way & RF_COPY_STREAMED) == (streamed ? RF_COPY_STREAMED : 0) ? 1 : 1000);
}

static void test_records(void)
{
    static uint8_t source[3][MOST_BYTES];
    const uint64_t of_fields[][3] = {
        {MOST_BYTES}, {MOST_BYTES - 1, 1, 65}, {16384, 3, 63}, {100000, 50528, 64}};
    const uint32_t fields[] = {1, 3, 3, 3};
    seed(2);
    for (size_t shape = 0; shape < COUNT(fields); shape++) {
        rf_ring *ring = ring_of(of_fields[shape], fields[shape], SLOTS);
        for (int round = 0; round < 100; round++) {
            const void *sources[3] = {source[0], source[1], source[2]};
            uint32_t records = 1 + random_below(SLOTS);
            for (uint32_t field = 0; field < fields[shape]; field++)
                fill_at_random(source[field], 70); /* the first bytes are enough */
            for (uint32_t record = 0; record < records; record++) {
                prefer(ring, random_below(2));
                for (uint32_t field = 0; field < fields[shape]; field++) {
                    source[field][0] = (uint8_t)record;
                    source[field][of_fields[shape][field] - 1] = (uint8_t)record;
                }
                CHECK_EQUAL(rf_put(ring, sources, record, 0), RF_OK);
            }
            for (uint32_t record = 0; record < records; record++) {
                rf_lease *read = take(ring, 1);
                for (uint32_t field = 0; field < fields[shape]; field++) {
                    source[field][0] = (uint8_t)record;
                    source[field][of_fields[shape][field] - 1] = (uint8_t)record;
                    CHECK(memcmp(rf_lease_data(read, field), source[field],
                                 of_fields[shape][field]) == 0);
                }
                rf_lease_drop(read);
            }
        }
        remove_ring(ring);
    }
}

/* The timings decide: the slower way is tried now and then, and not kept. */
static void test_faster_way(void)
{
    const uint64_t bytes[] = {MOST_BYTES};
    for (int streams_faster = 0; streams_faster < 2; streams_faster++) {
        rf_ring *ring = ring_of(bytes, 1, 1024);
        int streamed = 0, turns = 1000;
        for (int turn = 0; turn < turns; turn++) {
            /* No slot was written recently. */
            unsigned way = rf_way_to_copy(ring, (uint32_t)turn);
            bool is_streamed = way & RF_COPY_STREAMED;
            CHECK_EQUAL(way & RF_COPY_HOT, 0);
            streamed += is_streamed;
            rf_note_copy(ring, way, is_streamed == streams_faster ? 5000 : 9000);
        }
        if (rf_way_to_copy(ring, 0) || streamed) /* if the machine has streaming stores */
            CHECK(streams_faster ? streamed > turns - 20 && streamed < turns
                                 : streamed > 0 && streamed < 20);
        remove_ring(ring);
    }
}

/* Recently written slots are hot. They have timings of their own, apart from those of other slots. */
static void test_hot_slots(void)
{
    const uint64_t bytes[] = {MOST_BYTES};
    rf_ring *ring = ring_of(bytes, 1, 1024);
    for (uint32_t slot = 100; slot < 116; slot++)
        (void)rf_way_to_copy(ring, slot);
    if (rf_way_to_copy(ring, 110) == 0) { /* no streaming stores here */
        remove_ring(ring);
        return;
    }
    for (uint32_t slot = 100; slot < 116; slot++)
        CHECK(rf_way_to_copy(ring, slot) & RF_COPY_HOT);
    for (int turn = 0; turn < 1000; turn++)
        CHECK_EQUAL(rf_way_to_copy(ring, 116 + (uint32_t)turn % 900) & RF_COPY_HOT, 0);
    CHECK_EQUAL(rf_way_to_copy(ring, 100) & RF_COPY_HOT, 0);
    prefer(ring, true);
    rf_store_relaxed(&ring->copies.ns_per_mib[RF_COPY_HOT], 1);
    int streamed = 0;
    for (uint32_t turn = 0; turn < 1000; turn++)
        streamed += rf_way_to_copy(ring, 200 + turn % 8) & RF_COPY_STREAMED;
    CHECK(streamed < 30);
    remove_ring(ring);
}

static const test tests[] = {
    {"streamed bytes equal their source, from any address, of any length", test_same_bytes},
    {"records of any fields arrive complete in either way", test_records},
    {"the faster way is found and kept", test_faster_way},
    {"recently written slots are hot", test_hot_slots},
};

MAIN(tests)
