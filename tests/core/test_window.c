/* The window (window.h): few slots are reused while takers keep up, and all slots are used under a backlog. */
#include "chance.h"
#include "check.h"
#include "ring/window.h"

enum { SLOTS = 64, WINDOW = 4, ROUNDS = 1000 };

static bool restarts; /* of the rings that ring_with_window creates */

static rf_ring *ring_with_window(uint32_t slots, uint32_t window)
{
    rf_ring *ring = create_ring(slots);
    ring->window = window;
    ring->restarts = restarts;
    return ring;
}

static void remove_ring(rf_ring *ring)
{
    close_ring(ring);
    CHECK_EQUAL(shm_unlink(segment_name(0)), 0);
}

/* The slots of a lease, one bit each. */
static uint64_t slot_bits(const rf_lease *lease)
{
    uint64_t bits = 0;
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++)
        bits |= UINT64_C(1) << rf_lease_slot(lease, row);
    return bits;
}

static int count_bits(uint64_t bits)
{
    return __builtin_popcountll(bits);
}

static void test_few_slots(void)
{
    for (uint32_t held = 1; held <= 20; held++) {
        rf_ring *ring = ring_with_window(SLOTS, WINDOW);
        rf_lease *in_hand[20] = {NULL};
        uint64_t used = 0;
        for (uint64_t number = 0; number < ROUNDS; number++) {
            rf_lease *written = claim(ring, 1);
            if (number >= ROUNDS / 2)
                used |= slot_bits(written);
            publish(written, 1, number);
            rf_lease **place = &in_hand[number % held];
            if (*place)
                rf_lease_drop(*place);
            *place = take(ring, 1);
            CHECK_EQUAL(number_at(*place, 0), number);
        }
        /* A taker that holds more slots widens the window to at most twice their number. */
        CHECK(count_bits(used) <= (held + 1 < WINDOW / 2 ? WINDOW : 2 * (int)(held + 1)));
        for (uint32_t i = 0; i < held; i++)
            rf_lease_drop(in_hand[i]);
        expect_all_free(ring);
        remove_ring(ring);
    }
}

/* A few records that always wait are no backlog. */
static void test_few_waiting(void)
{
    for (uint64_t waiting = 1; waiting < WINDOW; waiting++) {
        rf_ring *ring = ring_with_window(SLOTS, WINDOW);
        uint64_t used = 0;
        for (uint64_t number = 0; number < ROUNDS; number++) {
            rf_lease *written = claim(ring, 1);
            used |= number < ROUNDS / 2 ? 0 : slot_bits(written);
            publish(written, 1, number);
            if (number >= waiting)
                take_expecting(ring, number - waiting);
        }
        CHECK(count_bits(used) <= 2 * WINDOW);
        for (uint64_t left = ROUNDS - waiting; left < ROUNDS; left++)
            take_expecting(ring, left);
        remove_ring(ring);
    }
}

static void test_backlog(void)
{
    rf_ring *ring = ring_with_window(SLOTS, WINDOW);
    uint64_t number = 0, taken = 0;
    for (int lap = 0; lap < 10; lap++) {
        uint64_t used = 0;
        for (int i = 0; i < SLOTS; i++) {
            rf_lease *written = claim(ring, 1);
            used |= slot_bits(written);
            publish(written, 1, number++);
        }
        CHECK_EQUAL(used, UINT64_MAX);
        rf_lease *none;
        CHECK_EQUAL(rf_claim(ring, 1, 0, &none), RF_FULL);
        while (taken < number) {
            rf_lease *read = take(ring, 7);
            for (uint32_t row = 0; row < rf_lease_rows(read); row++)
                CHECK_EQUAL(number_at(read, row), taken++);
            rf_lease_drop(read);
        }
        used = 0;
        for (int i = 0; i < 100; i++) {
            rf_lease *written = claim(ring, 1);
            used |= i < 50 ? 0 : slot_bits(written);
            publish(written, 1, number++);
            rf_lease *read = take(ring, 1);
            CHECK_EQUAL(number_at(read, 0), taken++);
            rf_lease_drop(read);
        }
        CHECK(count_bits(used) <= 2 * WINDOW);
    }
    close_ring(ring);
}

/* A taker that waits for several rows gets them in one batch, wherever a window ends; so does a claimer. */
static void test_batches(void)
{
    for (uint32_t rows = 2; rows <= 20; rows++) {
        rf_ring *ring = ring_with_window(SLOTS, WINDOW);
        rf_lease *read;
        /* This take announces the rows that it waits for. */
        CHECK_EQUAL(take_until(ring, rows, rows, 0, &read), RF_EMPTY);
        for (uint64_t round = 0, number = 0; round < ROUNDS / 4; round++, number += rows) {
            if (round % 2) {
                rf_lease *written = claim(ring, rows);
                CHECK_EQUAL(rf_lease_rows(written), rows);
                publish(written, rows, number);
            } else {
                for (uint64_t i = 0; i < rows; i++)
                    publish(claim(ring, 1), 1, number + i);
            }
            CHECK_EQUAL(take_until(ring, rows, rows, 0, &read), RF_OK);
            CHECK_EQUAL(rf_lease_rows(read), rows);
            CHECK_EQUAL(number_at(read, 0), number);
            CHECK_EQUAL(number_at(read, rows - 1), number + rows - 1);
            rf_lease_drop(read);
        }
        remove_ring(ring);
    }
}

/* A claim of several rows gets all of them, also where a window ends. */
static void test_claims_of_several(void)
{
    for (uint32_t rows = 2; rows <= 20; rows++) {
        rf_ring *ring = ring_with_window(SLOTS, WINDOW);
        uint64_t used = 0;
        for (uint64_t round = 0, number = 0; round < ROUNDS; round++, number += rows) {
            rf_lease *written = claim(ring, rows);
            CHECK_EQUAL(rf_lease_rows(written), rows);
            publish(written, rows, number);
            rf_lease *read = take(ring, rows);
            CHECK_EQUAL(rf_lease_rows(read), rows);
            CHECK_EQUAL(number_at(read, rows - 1), number + rows - 1);
            used |= round < ROUNDS / 2 ? 0 : slot_bits(read);
            rf_lease_drop(read);
        }
        CHECK(count_bits(used) <= (int)(2 * rows + 2 * WINDOW));
        remove_ring(ring);
    }
}

/* A slot that is held for a long time blocks no claim and no take. */
static void test_held_slot(void)
{
    for (uint32_t place = 0; place < 3 * WINDOW; place++) {
        rf_ring *ring = ring_with_window(SLOTS, WINDOW);
        rf_lease *held = NULL;
        uint64_t used = 0;
        for (uint64_t number = 0; number < ROUNDS; number++) {
            if (number == place)
                held = claim(ring, 1);
            rf_lease *written = claim(ring, 1);
            used |= number < ROUNDS / 2 ? 0 : slot_bits(written);
            publish(written, 1, number);
            rf_lease *read = take(ring, 1);
            CHECK_EQUAL(number_at(read, 0), number);
            rf_lease_drop(read);
        }
        CHECK(count_bits(used) <= 4 * WINDOW);
        publish(held, 1, ROUNDS);
        rf_lease *last = take(ring, 1);
        CHECK_EQUAL(number_at(last, 0), ROUNDS);
        rf_lease_drop(last);
        expect_all_free(ring);
        remove_ring(ring);
    }
}

static void put_and_take_one(rf_ring *ring, uint64_t number)
{
    publish(claim(ring, 1), 1, number);
    take_expecting(ring, number);
}

/* A slot that another participant claimed earlier lies outside the window. Its record is taken within a few
 * laps, though the window always has a record. */
static void test_record_from_outside(void)
{
    for (uint32_t place = 0; place < 4 * WINDOW; place++) {
        rf_ring *ring = ring_with_window(SLOTS, WINDOW), *other = attach_ring();
        uint64_t number = 0;
        while (number < place)
            put_and_take_one(ring, number++);
        rf_lease *held = claim(other, 1);
        while (number < place + 2 * WINDOW)
            put_and_take_one(ring, number++);
        publish(held, 1, ROUNDS);
        for (bool came = false; !came; number++) {
            CHECK(number < place + 4 * SLOTS);
            publish(claim(ring, 1), 1, number);
            rf_lease *read = take(ring, 1);
            came = number_at(read, 0) == ROUNDS;
            rf_lease_drop(read);
        }
        take_expecting(ring, number - 1);
        expect_all_free(ring);
        close_ring(other);
        remove_ring(ring);
    }
}

/* A taker that followed links to older records returns to the window when these records are taken. */
static void test_after_links(void)
{
    for (uint32_t waiting = 2; waiting <= 20; waiting++) {
        rf_ring *ring = ring_with_window(SLOTS, WINDOW);
        uint64_t number = 0, taken = 0, used = 0;
        while (number < waiting)
            publish(claim(ring, 1), 1, number++);
        /* As a late taker leaves the cursor. */
        rf_store_relaxed(&ring->header->take_cursor, waiting - 1);
        while (taken < number)
            take_expecting(ring, taken++);
        for (int i = 0; i < 4 * WINDOW; i++, number++) {
            rf_lease *written = claim(ring, 1);
            used |= i < 2 * WINDOW ? 0 : slot_bits(written);
            publish(written, 1, number);
            take_expecting(ring, number);
        }
        CHECK(count_bits(used) <= WINDOW);
        remove_ring(ring);
    }
}

/* Claims and takes of any size, and leases held for any time: each record is taken once, in order. */
static void test_any_pattern(void)
{
    seed(1);
    for (int trial = 0; trial < 300; trial++) {
        uint32_t slots = 1 + random_below(24);
        rf_ring *ring = ring_with_window(slots, random_below(8));
        rf_lease *held[4] = {NULL};
        uint64_t put = 0, got = 0;
        for (int step = 0; step < 400; step++) {
            rf_lease *lease, **place = &held[random_below(4)];
            if (random_below(2)) {
                if (rf_claim(ring, 1 + random_below(slots), 0, &lease) != RF_OK)
                    continue;
                uint32_t rows = rf_lease_rows(lease);
                publish(lease, rows, put);
                put += rows;
            } else {
                if (*place)
                    rf_lease_drop(*place);
                *place = take(ring, 1 + random_below(slots));
                for (uint32_t row = 0; *place && row < rf_lease_rows(*place); row++)
                    CHECK_EQUAL(number_at(*place, row), got++);
            }
        }
        for (int i = 0; i < 4; i++)
            if (held[i])
                rf_lease_drop(held[i]);
        while ((held[0] = take(ring, slots))) {
            for (uint32_t row = 0; row < rf_lease_rows(held[0]); row++)
                CHECK_EQUAL(number_at(held[0], row), got++);
            rf_lease_drop(held[0]);
        }
        CHECK_EQUAL(got, put);
        expect_all_free(ring);
        remove_ring(ring);
    }
}

static void test_size(void)
{
    uint64_t of_bytes[][2] = {
        {64, 0}, {4096, 256}, {150528, 6}, {602112, 2}, {UINT64_C(1) << 25, 2}};
    for (size_t i = 0; i < COUNT(of_bytes); i++) {
        rf_geometry geometry = {
            .fields = 1, .slots = 1024, .field[0].stride_bytes = of_bytes[i][0]};
        CHECK_EQUAL(rf_window_slots(&geometry), of_bytes[i][1]);
        geometry.slots = 4;
        CHECK_EQUAL(rf_window_slots(&geometry), 0);
    }
}

/* The same tests with `restarts`: a claim restarts at the first slots when every record was taken. */
#define WITH_RESTARTS(test)             \
    static void test##_restarting(void) \
    {                                   \
        restarts = true;                \
        test();                         \
    }
WITH_RESTARTS(test_few_slots)
WITH_RESTARTS(test_few_waiting)
WITH_RESTARTS(test_backlog)
WITH_RESTARTS(test_batches)
WITH_RESTARTS(test_claims_of_several)
WITH_RESTARTS(test_held_slot)
WITH_RESTARTS(test_record_from_outside)
WITH_RESTARTS(test_after_links)
WITH_RESTARTS(test_any_pattern)

static const test tests[] = {
    {"restarting: records lie in few slots", test_few_slots_restarting},
    {"restarting: a few records that always wait lie in few slots", test_few_waiting_restarting},
    {"restarting: under a backlog every slot is used, in order, and afterwards few",
     test_backlog_restarting},
    {"restarting: a taker that waits for several records gets them in one batch",
     test_batches_restarting},
    {"restarting: claims of several slots get all of them", test_claims_of_several_restarting},
    {"restarting: a slot that is held for a long time blocks no other slot",
     test_held_slot_restarting},
    {"restarting: a record outside of the window is taken", test_record_from_outside_restarting},
    {"restarting: a taker that followed links returns to the window", test_after_links_restarting},
    {"restarting: under any claims, takes and held leases each record is taken once, in order",
     test_any_pattern_restarting},
    {"while takers keep up, records lie in few slots", test_few_slots},
    {"a few records that always wait lie in few slots", test_few_waiting},
    {"under a backlog every slot is used, in order, and afterwards few", test_backlog},
    {"a taker that waits for several records gets them in one batch", test_batches},
    {"claims of several slots get all of them", test_claims_of_several},
    {"a slot that is held for a long time blocks no other slot", test_held_slot},
    {"a record outside of the window is taken", test_record_from_outside},
    {"a taker that followed links returns to the window", test_after_links},
    {"under any claims, takes and held leases each record is taken once, in order",
     test_any_pattern},
    {"a window fits into a cache, and is at most half of the ring", test_size},
};

MAIN(tests)
