/*
 * Operations on the records of a test ring, which fail the test if they fail, and the states of its slots. Included
 * by check.h.
 */
#ifndef RF_RING_OPERATIONS_H
#define RF_RING_OPERATIONS_H

#include "check.h"

static inline uint64_t number_at(const rf_lease *lease, uint32_t row)
{
    uint64_t number;
    const rf_field *field = &rf_ring_geometry(lease->ring)->field[0];
    memcpy(&number, (char *)rf_lease_data(lease, 0) + row * field->stride_bytes, sizeof number);
    return number;
}

static inline void set_number(rf_lease *lease, uint32_t row, uint64_t number)
{
    const rf_field *field = &rf_ring_geometry(lease->ring)->field[0];
    memcpy((char *)rf_lease_data(lease, 0) + row * field->stride_bytes, &number, sizeof number);
}

static inline rf_status claim_until(rf_ring *ring, uint32_t rows, int64_t deadline,
                                    rf_lease **lease)
{
    rf_status status;
    while ((status = rf_claim(ring, rows, deadline, lease)) == RF_AGAIN)
        ;
    return status;
}

static inline rf_lease *claim(rf_ring *ring, uint32_t rows)
{
    rf_lease *lease;
    CHECK_EQUAL(rf_claim(ring, rows, 0, &lease), RF_OK);
    return lease;
}

/* Write number, number + 1, ... into the first rows and publish them. The lease is dropped. */
static inline void publish(rf_lease *lease, uint32_t rows, uint64_t number)
{
    for (uint32_t row = 0; row < rows; row++)
        set_number(lease, row, number + row);
    CHECK_EQUAL(rf_publish(lease, rows, NULL, 0), RF_OK);
    rf_lease_drop(lease);
}

static inline rf_status put_until(rf_ring *ring, uint64_t number, int64_t deadline)
{
    _Alignas(64) uint8_t sample[SAMPLE_BYTES] = {0};
    const void *sources[1] = {sample};
    rf_status status;
    memcpy(sample, &number, sizeof number);
    while ((status = rf_put(ring, sources, number, deadline)) == RF_AGAIN)
        ;
    return status;
}

static inline void put(rf_ring *ring, uint64_t number)
{
    CHECK_EQUAL(put_until(ring, number, 0), RF_OK);
}

static inline rf_status take_until(rf_ring *ring, uint32_t most, uint32_t least, int64_t deadline,
                                   rf_lease **lease)
{
    rf_take_request request = {.max_rows = most, .min_rows = least, .deadline_ns = deadline};
    rf_status status;
    while ((status = rf_take(ring, &request, lease)) == RF_AGAIN)
        ;
    return status;
}

/* Take the rows that are ready now. NULL: none is ready. */
static inline rf_lease *take(rf_ring *ring, uint32_t most)
{
    rf_lease *lease;
    rf_status status = take_until(ring, most, 1, 0, &lease);
    CHECK(status == RF_OK || status == RF_EMPTY);
    return lease;
}

/* Take one record, expect its number, release it. */
static inline void take_expecting(rf_ring *ring, uint64_t number)
{
    rf_lease *lease = take(ring, 1);
    CHECK(lease != NULL);
    CHECK_EQUAL(number_at(lease, 0), number);
    rf_lease_drop(lease);
}

static inline uint64_t word_of(const rf_ring *ring, uint32_t slot)
{
    return atomic_load(&ring->words[slot]);
}

static inline rf_state state_of(const rf_ring *ring, uint32_t slot)
{
    return rf_word_state(word_of(ring, slot));
}

/* Deliveries of the record that lies in this slot. */
static inline uint32_t deliveries_of(const rf_ring *ring, uint32_t slot)
{
    return rf_deliveries(atomic_load(&ring->uses[slot].deliveries),
                         rf_word_epoch(word_of(ring, slot)));
}

/* Expect that every slot is free. A slot that was lost for good shows here. */
static inline void expect_all_free(const rf_ring *ring)
{
    for (uint32_t slot = 0; slot < ring->slot_count; slot++)
        CHECK_EQUAL(state_of(ring, slot), RF_STATE_FREE);
}

#endif
