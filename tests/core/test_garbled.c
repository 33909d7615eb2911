/* A broken or hostile peer may write anything into the segment. No participant crashes or hangs. */
#include "garble.h"
#include "ring/producers.h"

/* Do everything that a caller may do, with waits that end. The results do not matter. */
static void do_everything(rf_ring *ring)
{
    rf_lease *lease;
    rf_stats stats;
    rf_record records[8];
    uint64_t tags[8] = {0};
    for (int round = 0; round < 3; round++) {
        put_until(ring, 1, 0);
        if (rf_claim(ring, 1 + (uint32_t)round, 0, &lease) == RF_OK) {
            uint32_t rows = rf_lease_rows(lease);
            CHECK(rows >= 1 && rows <= 1 + (uint32_t)round &&
                  rf_lease_first(lease) < ring->slot_count);
            for (uint32_t row = 0; row < rows; row++)
                set_number(lease, row, row);
            rf_publish(lease, rows, tags, round == 1);
            rf_lease_drop(lease);
        }
        if (take_until(ring, 8, 1 + (uint32_t)round, in_ms(round), &lease) == RF_OK) {
            uint32_t rows = rf_lease_rows(lease);
            CHECK(rows >= 1 && rows <= 8 && rf_lease_first(lease) < ring->slot_count);
            rf_lease_records(lease, records);
            rf_lease_tags(lease, tags);
            for (uint32_t row = 0; row < rows; row++)
                number_at(lease, row);
            rf_lease_drop(lease);
        }
        rf_recover(ring);
        rf_ring_stats(ring, &stats);
    }
}

/* ---- One kind of damage at a time ----------------------------------------------------------- */

static const uint64_t oddities[] = {
    1, 2, 3, 4, 5, 6, 7, 0x7fff, UINT32_MAX, UINT64_MAX, UINT64_MAX - 7, INT64_MAX, 0xfff0,
};

static void test_words(void)
{
    rf_ring *ring = create_ring(8);
    for (size_t i = 0; i < COUNT(oddities); i++) {
        for (uint32_t state = 0; state < 8; state++) {
            for (uint32_t slot = 0; slot < 8; slot += 1 + i % 3)
                atomic_store(&ring->words[slot], (oddities[i] << 3) | state);
            do_everything(ring);
        }
    }
    close_ring(ring);
}

static void test_undefined_states(void)
{
    rf_ring *ring = create_ring(4);
    uint64_t next = 0;
    for (uint64_t state = 5; state < 8; state++) {
        atomic_store(&ring->words[1], 9 << 16 | state);
        for (int lap = 0; lap < 20; lap++) { /* callers skip a slot in this state */
            put(ring, next);
            take_expecting(ring, next++);
            CHECK_EQUAL(word_of(ring, 1), 9 << 16 | state);
        }
    }
    close_ring(ring);
}

static void test_cursors(void)
{
    rf_ring *ring = create_ring(4);
    for (size_t i = 0; i < COUNT(oddities); i++) {
        atomic_store(&ring->header->claim_cursor, (uint32_t)oddities[i]);
        put(ring, i);
        atomic_store(&ring->header->take_cursor, (uint32_t)oddities[i]);
        take_expecting(ring, i);
    }
    expect_all_free(ring);
    close_ring(ring);
}

static void test_records(void)
{
    rf_ring *ring = create_ring(4);
    for (size_t i = 0; i < COUNT(oddities); i++) {
        for (uint64_t pin = 0; pin < 2; pin++) {
            rf_lease *lease = claim(ring, 1);
            rf_publish(lease, 1, NULL, pin != 0);
            uint32_t slot = rf_lease_first(lease);
            atomic_store(&ring->links[slot], oddities[i] << 20);
            atomic_store(&ring->slots[slot].producer, (uint32_t)oddities[i]);
            atomic_store(&ring->uses[slot].deliveries, oddities[i]);
            atomic_store(&ring->slots[slot].claimed_ns, (int64_t)oddities[i]);
            do_everything(ring);
            rf_lease_drop(lease);
        }
    }
    close_ring(ring);
}

/* Records whose links form a circle cannot be taken. The others can, and no search runs forever. */
static void test_links_in_a_circle(void)
{
    enum { SLOTS = 1 << 14 };
    rf_options options = options_for(SLOTS);
    rf_ring *ring = create_ring_as(&options, 64), *other = attach_ring();
    _Alignas(64) uint8_t sample[64] = {0};
    const void *sources[1] = {sample};
    for (uint32_t slot = 0; slot < SLOTS - 1; slot++)
        CHECK_EQUAL(rf_put(ring, sources, 0, 0), RF_OK);
    CHECK_EQUAL(rf_put(other, sources, 17, 0), RF_OK);
    atomic_store(&ring->links[0], rf_link(SLOTS - 2, 1));
    for (uint32_t slot = 1; slot < SLOTS - 1; slot++) /* each record links to the one before it */
        CHECK_EQUAL(rf_link_slot(atomic_load(&ring->links[slot])), slot - 1);
    atomic_store(&ring->header->take_cursor, 5);
    rf_lease *batch = take(ring, 64);
    uint64_t tag;
    CHECK_EQUAL(rf_lease_rows(batch), 1);
    rf_lease_tags(batch, &tag);
    CHECK_EQUAL(tag, 17);
    rf_lease_drop(batch);
    for (int i = 0; i < 10; i++)
        CHECK(take(ring, 64) == NULL);
    close_ring(other);
    close_ring(ring);
}

static void test_participants(void)
{
    rf_ring *ring = create_ring(4);
    for (uint32_t i = 0; i < 16; i++) {
        if (i + 1 == rf_self(ring))
            continue;
        atomic_store(&ring->participants[i].state, i % 3);
        atomic_store(&ring->participants[i].mark.pid, 1);
        atomic_store(&ring->participants[i].counters.published, UINT64_MAX);
    }
    do_everything(ring);
    close_ring(attach_ring());
    atomic_store(&ring->participants[rf_self(ring) - 1].state, RF_ABSENT);
    rf_ring *other = attach_ring();
    CHECK(rf_self(other) != rf_self(ring)); /* whatever the entry says, it belongs to this handle */
    do_everything(other);
    close_ring(other);
    close_ring(ring);
}

static void test_events(void)
{
    rf_ring *ring = create_ring(4);
    for (size_t i = 0; i < COUNT(oddities); i++) {
        atomic_store(&ring->header->readable.wanted, (uint32_t)oddities[i]);
        atomic_store(&ring->header->writable.wanted, (uint32_t)oddities[i]);
        atomic_store(&ring->header->readable.sequence, (uint32_t)oddities[i]);
        do_everything(ring);
    }
    close_ring(ring);
}

/* A garbled count of producers or a garbled failure: blocks begin and end, a text is bounded, no waiter hangs. */
static void test_producers(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_header *header = ring->header;
    char text[RF_FAILURE_BYTES + 1];
    for (size_t i = 0; i < COUNT(oddities); i++) {
        for (uint32_t state = 0; state < 16; state++) {
            rf_block block;
            atomic_store(&header->finished, i % 2 ? 0 : oddities[i] * 2);
            header->producers = (uint32_t)oddities[i];
            atomic_store(&ring->participants[rf_self(other) - 1].producing, oddities[i] + state);
            atomic_store(&ring->participants[15].producing, oddities[i]);
            atomic_store(&header->failure.word, oddities[i] << 4 | state);
            atomic_store(&header->failure.bytes, (uint32_t)oddities[i]);
            if (rf_producing_begin(other, state & 1, &block) == RF_OK) {
                rf_producing_fail(other, block, "x", 1);
                rf_producing_end(other, block);
            }
            CHECK(rf_ring_failure(ring, text) <= RF_FAILURE_BYTES);
            rf_end_blocks(ring, rf_self(other));
            do_everything(ring);
        }
    }
    close_ring(other);
    close_ring(ring);
}

static _Atomic uint32_t flips;

static void *flip_the_end(void *ring)
{
    for (uint32_t i = 0; atomic_load(&flips) == 0; i++) {
        atomic_store(&((rf_ring *)ring)->header->finished, i & 1);
        if (i % 4096 == 0)
            sched_yield();
    }
    return NULL;
}

static void test_an_end_that_flips(void)
{
    rf_ring *ring = create_ring(1);
    rf_lease *lease;
    pthread_t thread = start_thread(flip_the_end, ring);
    for (int i = 0; i < (SANITIZED ? 20000 : 200000); i++) {
        rf_status status = take_until(ring, 1, 1, 0, &lease);
        CHECK(status == RF_EMPTY || status == RF_FINISHED); /* never an empty batch */
        status = rf_claim(ring, 1, 0, &lease);
        CHECK(status == RF_OK || status == RF_FINISHED);
        if (status == RF_OK)
            rf_lease_drop(lease);
    }
    atomic_store(&flips, 1);
    join_thread(thread);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- All kinds of damage at once ------------------------------------------------------------ */

typedef struct vandal {
    _Atomic uint32_t stop;
} vandal;

static void vandalise(void *argument)
{
    vandal *own = argument;
    garbler garbles;
    begin_garbling(&garbles, attach_ring());
    seed(1);
    while (!atomic_load(&own->stop)) {
        garble(&garbles);
        if (random_below(64) == 0)
            sched_yield();
    }
    restore_header(&garbles);
}

static void test_random_writes(void)
{
    vandal *own = shared_memory(sizeof *own);
    rf_ring *ring = create_ring(8);
    pid_t child = spawn(vandalise, own);
    for (int round = 0; round < (SANITIZED ? 200 : 1500); round++)
        do_everything(ring);
    atomic_store(&own->stop, 1);
    expect_success(child);
    close_ring(ring);
}

static const test tests[] = {
    {"words of any content do no harm", test_words},
    {"a slot in an undefined state is skipped", test_undefined_states},
    {"cursors of any content are only hints", test_cursors},
    {"slot records of any content do no harm", test_records},
    {"links in a circle hide only their own records", test_links_in_a_circle},
    {"participant entries of any content do no harm", test_participants},
    {"producers of any number, and texts of any content, do no harm", test_producers},
    {"event counts of any content do no harm", test_events},
    {"a ring whose finished flag flips hands out no empty batch", test_an_end_that_flips},
    {"a peer that writes random values everywhere does no harm", test_random_writes},
};

MAIN(tests)
