/* If another process may still write into the slots of a claim, the claim is published from other slots. */
#include <pthread.h>

#include "check.h"

enum { SLOTS = 1 << 15, TRIALS = 40 };

static _Atomic int searches;

/* The taker searches the ring repeatedly, so that a search is usually under way when the record moves. */
static void *take_to_the_end(void *argument)
{
    rf_lease *lease;
    rf_status status;
    rf_ring *ring = argument;
    uint64_t *number = calloc(1, sizeof *number);
    while ((status = take_until(ring, 1, 1, 0, &lease)) == RF_EMPTY)
        atomic_fetch_add(&searches, 1);
    if (status == RF_OK) {
        *number = number_at(lease, 0);
        rf_lease_drop(lease);
    }
    return number;
}

static void copy_and_publish(rf_lease *written, uint64_t number)
{
    rf_lease *copy;
    CHECK_EQUAL(rf_claim_copy(written, 0, 1, &copy), RF_OK);
    CHECK_EQUAL(*(uint64_t *)rf_lease_data(copy, 0), number);
    CHECK_EQUAL(rf_publish(copy, 1, NULL, 0), RF_OK);
    rf_lease_drop(copy);
    rf_set_apart(written);
}

/* The record moves from the last slot, which a taker inspects last, to the first, which it has passed. */
static void test_at_the_end(void)
{
    for (int trial = 1; trial <= TRIALS; trial++) {
        rf_ring *ring = create_ring(SLOTS), *other = attach_ring();
        atomic_store(&ring->header->claim_cursor, SLOTS - 1);
        rf_lease *written = claim(ring, 1);
        CHECK_EQUAL(rf_lease_first(written), SLOTS - 1);
        *(uint64_t *)rf_lease_data(written, 0) = (uint64_t)trial;
        rf_finish(ring);
        pthread_t taker;
        void *number;
        CHECK_EQUAL(pthread_create(&taker, NULL, take_to_the_end, other), 0);
        atomic_store(&searches, 0);
        while (atomic_load(&searches) < 2 + trial % 3)
            rf_pause();
        for (int pause = 0; pause < trial * 997 % 5000; pause++)
            rf_pause();
        copy_and_publish(written, (uint64_t)trial);
        CHECK_EQUAL(pthread_join(taker, &number), 0);
        CHECK_EQUAL(*(uint64_t *)number, trial);
        free(number);
        rf_lease_drop(written);
        close_ring(other);
        close_ring(ring);
        remove_segments(getpid());
    }
}

static void test_taken_back(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *written = claim(ring, 4), *copy;
    /* As a process does that takes this one for dead. */
    uint32_t slot = rf_lease_slot(written, 2);
    CHECK(rf_free_slot(ring, slot, written->words[2]));
    CHECK_EQUAL(rf_claim_copy(written, 0, 4, &copy), RF_SLOT_LOST);
    CHECK_EQUAL(rf_claim_copy(written, 0, 2, &copy), RF_OK);
    rf_lease_drop(copy);
    rf_lease_drop(written);
    close_ring(ring);
}

static const test tests[] = {
    {"a taker of a finished ring finds a record that moved to a slot it had passed",
     test_at_the_end},
    {"rows that were taken back are not copied", test_taken_back},
};

MAIN(tests)
