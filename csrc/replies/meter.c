/*
 * Histograms of the time that records spend in each phase. See meter.h.
 *
 * It may not know the code that reads it.
 */
#include "meter.h"

#include <stdlib.h>

#include "ring/lease.h"

enum { BUCKETS_PER_POWER = 4 /* of two */, PRODUCER_WORDS = 64 };

typedef struct histogram {
    _Atomic uint64_t count, sum_ns, buckets[RF_METER_BUCKETS];
} histogram;

struct rf_meter {
    histogram phases[RF_PHASES];
    _Atomic uint64_t idle_ns[RF_IDLES];
    _Atomic uint64_t producers[PRODUCER_WORDS]; /* one bit for each participant */
};

rf_meter *rf_meter_new(void)
{
    return calloc(1, sizeof(rf_meter));
}

void rf_meter_free(rf_meter *meter)
{
    free(meter);
}

/* 0, 1, 2, 3, then four buckets for each power of two. */
static uint32_t bucket_of(uint64_t ns)
{
    if (ns < BUCKETS_PER_POWER)
        return (uint32_t)ns;
    uint32_t power = 63 - (uint32_t)__builtin_clzll(ns);
    uint32_t bucket =
        (power - 1) * BUCKETS_PER_POWER + ((uint32_t)(ns >> (power - 2)) & (BUCKETS_PER_POWER - 1));
    return bucket < RF_METER_BUCKETS ? bucket : RF_METER_BUCKETS - 1;
}

uint64_t rf_bucket_end_ns(uint32_t bucket)
{
    if (bucket < BUCKETS_PER_POWER)
        return bucket + 1;
    uint32_t power = bucket / BUCKETS_PER_POWER + 1;
    return (UINT64_C(1) << power) +
           ((uint64_t)(bucket % BUCKETS_PER_POWER) + 1) * (UINT64_C(1) << (power - 2));
}

/* All operations here are relaxed: each number is correct by itself, and no reader combines two of them. */
void rf_meter_add(rf_meter *meter, rf_phase phase, int64_t ns)
{
    if (ns < 0)
        return; /* a faulty peer wrote the clock */
    histogram *into = &meter->phases[phase];
    rf_add_relaxed(&into->count, 1u);
    rf_add_relaxed(&into->sum_ns, (uint64_t)ns);
    rf_add_relaxed(&into->buckets[bucket_of((uint64_t)ns)], 1u);
}

static void count_producer(rf_meter *meter, uint32_t producer)
{
    uint64_t bit = UINT64_C(1) << (producer % 64);
    _Atomic uint64_t *word = &meter->producers[producer / 64 % PRODUCER_WORDS];
    if (!(rf_load_relaxed(word) & bit))
        atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
}

static void count_idle(rf_meter *meter, int64_t since, int64_t first_published, int64_t until)
{
    int64_t ready = first_published > since ? first_published : since;
    if (until <= since)
        return;
    ready = ready < until ? ready : until;
    rf_add_relaxed(&meter->idle_ns[RF_IDLE_STARVED], (uint64_t)(ready - since));
    rf_add_relaxed(&meter->idle_ns[RF_IDLE_BATCHING], (uint64_t)(until - ready));
}

void rf_meter_batch(rf_meter *meter, const rf_lease *batch, const rf_ring *pool,
                    const rf_held *held, int64_t idle_since_ns)
{
    const rf_ring *ring = batch->ring;
    int64_t first = INT64_MAX, taken = 0;
    for (uint32_t row = 0; row < batch->rows; row++) {
        rf_slot *slot = &ring->slots[rf_lease_slot(batch, row)];
        int64_t claimed = rf_load_relaxed(&slot->claimed_ns),
                published = rf_load_relaxed(&slot->published_ns);
        taken = rf_load_relaxed(&ring->uses[rf_lease_slot(batch, row)].taken_ns);
        first = published < first ? published : first;
        rf_meter_add(meter, RF_PHASE_PREPROCESS, published - claimed);
        rf_meter_add(meter, RF_PHASE_QUEUE, taken - published);
        count_producer(meter, rf_load_relaxed(&slot->producer));
        if (held && held[row].word) {
            rf_cell *cell = (rf_cell *)&pool->slots[held[row].cell];
            rf_meter_add(meter, RF_PHASE_SLOT, claimed - rf_load_relaxed(&cell->asked_ns));
        }
    }
    count_idle(meter, idle_since_ns, first, taken);
}

void rf_meter_answers(rf_meter *meter, const rf_ring *pool, const rf_held *held, uint32_t rows,
                      int64_t now_ns)
{
    for (uint32_t row = 0; row < rows; row++)
        if (held[row].word) {
            rf_cell *cell = (rf_cell *)&pool->slots[held[row].cell];
            rf_meter_add(meter, RF_PHASE_TOTAL, now_ns - rf_load_relaxed(&cell->asked_ns));
        }
}

void rf_meter_read(rf_meter *meter, rf_phase phase, rf_reading *reading)
{
    histogram *from = &meter->phases[phase];
    reading->count = rf_load_relaxed(&from->count);
    reading->sum_ns = rf_load_relaxed(&from->sum_ns);
    for (uint32_t i = 0; i < RF_METER_BUCKETS; i++)
        reading->buckets[i] = rf_load_relaxed(&from->buckets[i]);
}

uint64_t rf_meter_idle_ns(rf_meter *meter, rf_idle cause)
{
    return rf_load_relaxed(&meter->idle_ns[cause]);
}

uint32_t rf_meter_producers(rf_meter *meter)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PRODUCER_WORDS; i++)
        count += (uint32_t)__builtin_popcountll(rf_load_relaxed(&meter->producers[i]));
    return count;
}
