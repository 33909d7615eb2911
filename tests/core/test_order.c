/* A record that was published before another one of the same handle was claimed is taken first; others lie in a row. */
#include "check.h"

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % limit;
}

/* Cursors are hints: any value must do. */
static void scramble_cursors(rf_ring *ring)
{
    static const uint32_t odd[] = {UINT32_MAX, 1u << 24, 0};
    uint32_t slots = ring->slot_count, choice = random_below(8);
    atomic_store(&ring->header->take_cursor, choice < 3 ? odd[choice] : random_below(slots));
    atomic_store(&ring->header->claim_cursor, random_below(slots));
}

/* ---- By hand -------------------------------------------------------------------------------- */

/* Claims that overlap have no order that anybody could observe: what lies in a row comes in one batch. */
static void test_crossed_claims(void)
{
    rf_ring *ring = create_ring(6);
    for (uint64_t round = 0; round < 60; round += 6) {
        rf_lease *first = claim(ring, 2), *second = claim(ring, 2), *third = claim(ring, 2);
        publish(third, 2, round + 4);
        publish(first, 2, round);
        publish(second, 2, round + 2);
        rf_lease *batch = take(ring, 6);
        CHECK_EQUAL(rf_lease_rows(batch), 6);
        for (uint32_t i = 0; i < 6; i++)
            CHECK_EQUAL(number_at(batch, i), round + i);
        rf_lease_drop(batch);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* In any order, of any length, and with others of the same claims published before and behind. */
static void test_many_crossed_claims(void)
{
    enum { CLAIMS = 24 };
    rf_ring *ring = create_ring(256);
    for (int round = 0; round < 400; round++) {
        rf_lease *claims[CLAIMS];
        uint32_t rows = 2, all = 0, left = CLAIMS;
        put(ring, 0);
        for (uint32_t i = 0; i < CLAIMS; i++) {
            claims[i] = claim(ring, rows = 1 + random_below(3));
            all += rows;
        }
        while (left > 0) {
            uint32_t which = random_below(left);
            rf_lease *now = claims[which];
            publish(now, rf_lease_rows(now), 7);
            claims[which] = claims[--left];
        }
        put(ring, 1);
        rf_lease *batch = take(ring, 256);
        CHECK_EQUAL(rf_lease_rows(batch), all + 2);
        CHECK_EQUAL(number_at(batch, 0), 0);
        CHECK_EQUAL(number_at(batch, all + 1), 1);
        rf_lease_drop(batch);
    }
    expect_all_free(ring);
    close_ring(ring);
}

/* What was claimed behind both of two that crossed follows both, wherever the search for it begins. */
static void test_behind_crossed_claims(void)
{
    for (uint32_t cursor = 0; cursor < 5; cursor++) {
        rf_ring *ring = create_ring(5);
        rf_lease *held = claim(ring, 1), *first = claim(ring, 1), *second = claim(ring, 1);
        publish(second, 1, 12);
        rf_lease *third = claim(ring, 1); /* behind `second`, beside `first` */
        publish(third, 1, 13);
        publish(first, 1, 11);
        rf_lease_drop(held);
        atomic_store(&ring->header->claim_cursor, 0);
        put(ring, 14); /* in slot 0, behind all three */
        CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
        bool taken[15] = {false};
        for (uint32_t i = 0; i < 4; i++) {
            atomic_store(&ring->header->take_cursor, cursor);
            rf_lease *batch = take(ring, 1);
            uint64_t number = number_at(batch, 0);
            CHECK(number != 13 || taken[12]);
            CHECK(number != 14 || (taken[11] && taken[12] && taken[13]));
            taken[number] = true;
            rf_lease_drop(batch);
        }
        expect_all_free(ring);
        close_ring(ring);
        shm_unlink(segment_name(0));
    }
}

/* A taker is faster than who would put its record in front. */
static void test_crossed_with_a_taker(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *first = claim(ring, 2), *second = claim(ring, 2), *third = claim(ring, 2);
    publish(second, 2, 3);
    publish(third, 2, 5);
    rf_lease *batch = take(ring, 1); /* half of the second */
    CHECK_EQUAL(number_at(batch, 0), 3);
    publish(first, 2, 1);
    put(ring, 7);
    rf_lease_drop(batch);
    uint64_t before = 0;
    for (uint32_t rows = 0; rows < 6;) {
        rf_lease *next = take(ring, 8);
        for (uint32_t row = 0; row < rf_lease_rows(next); row++)
            before = number_at(next, row);
        rows += rf_lease_rows(next);
        rf_lease_drop(next);
    }
    CHECK_EQUAL(before, 7); /* the last is the one that was claimed behind them all */
    expect_all_free(ring);
    close_ring(ring);
}

/* What lies behind a record that comes again may be in somebody's hands: nothing is put in front of it any more. */
static void test_crossed_with_a_record_that_comes_again(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *first = claim(ring, 1);
    publish(claim(ring, 2), 2, 2);
    rf_lease *again = take(ring, 1), *held = take(ring, 1);
    CHECK_EQUAL(number_at(held, 0), 3);
    rf_lease_give_back(again);
    rf_lease_drop(again);
    publish(first, 1, 1);
    put(ring, 4); /* it was claimed behind 1, and its link names 3, which is taken */
    bool taken = false;
    for (uint32_t i = 0; i < 3; i++) {
        atomic_store(&ring->header->take_cursor, 3);
        rf_lease *batch = take(ring, 1);
        CHECK(number_at(batch, 0) != 4 || taken);
        taken |= number_at(batch, 0) == 1;
        rf_lease_drop(batch);
    }
    rf_lease_drop(held);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_skipped_slots(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    rf_lease *held = claim(other, 1); /* slot 0: everyone goes around it */
    put(ring, 0);
    put(ring, 1);
    put(ring, 2);
    CHECK_EQUAL(put_until(ring, 3, 0), RF_FULL);
    take_expecting(ring, 0);
    rf_lease_drop(held); /* slot 0 comes free: younger records pass the oldest in place */
    atomic_store(&ring->header->claim_cursor, 0);
    put(ring, 3); /* in slot 0 */
    CHECK_EQUAL(state_of(ring, 0), RF_STATE_READY);
    for (uint32_t cursor = 0; cursor < 4; cursor++) {
        atomic_store(&ring->header->take_cursor, cursor);
        rf_lease *batch = take(ring, 1);
        if (cursor < 3)
            CHECK_EQUAL(number_at(batch, 0), cursor + 1);
        else
            CHECK(batch == NULL);
        if (batch)
            rf_lease_drop(batch);
    }
    close_ring(other);
    close_ring(ring);
}

static void test_a_batch_ends_where_the_order_does(void)
{
    rf_ring *ring = create_ring(4);
    rf_lease *first = claim(ring, 1), *second = claim(ring, 1);
    publish(second, 1, 0); /* slot 1 */
    rf_lease_drop(first);
    atomic_store(&ring->header->claim_cursor, 0);
    put(ring, 1); /* slot 0 */
    put(ring, 2); /* slot 2 */
    atomic_store(&ring->header->take_cursor, 0);
    rf_lease *batch = take(ring, 4);
    CHECK_EQUAL(rf_lease_first(batch), 1);
    CHECK_EQUAL(rf_lease_rows(batch), 1);
    rf_lease *next = take(ring, 4);
    CHECK_EQUAL(rf_lease_first(next), 0);
    CHECK_EQUAL(rf_lease_rows(next), 1);
    rf_lease_drop(batch);
    rf_lease_drop(next);
    take_expecting(ring, 2);
    expect_all_free(ring);
    close_ring(ring);
}

/* ---- At random ------------------------------------------------------------------------------ */

enum { HANDLES = 3, OPEN_CLAIMS = 4, OPEN_BATCHES = 3, MAX_ROWS = 5, MOST_RECORDS = 1 << 19 };

typedef struct player {
    rf_ring *ring;
    rf_lease *claims[OPEN_CLAIMS], *batches[OPEN_BATCHES];
    rf_lease *kept;
    uint64_t published, since[OPEN_CLAIMS], taken;
    struct {
        uint32_t since; /* so many were published when it was claimed */
        bool taken;
    } *records;
    uint64_t all_taken; /* up to here */
} player;

/* Of what was published before it was claimed, everything is taken. */
static void note_taken(player *players, uint64_t number)
{
    player *its = &players[number >> 32];
    uint32_t which = (uint32_t)number;
    CHECK(which < its->published && !its->records[which].taken);
    CHECK(its->records[which].since <= its->all_taken);
    its->records[which].taken = true;
    while (its->all_taken < its->published && its->records[its->all_taken].taken)
        its->all_taken++;
    its->taken++;
}

static void claim_or_publish(player *now, uint64_t mark)
{
    uint32_t which = random_below(OPEN_CLAIMS);
    rf_lease **lease = &now->claims[which];
    if (!*lease) {
        now->since[which] = now->published;
        rf_claim(now->ring, 1 + random_below(MAX_ROWS), 0, lease);
        return;
    }
    uint32_t rows = random_below(rf_lease_rows(*lease) + 1);
    for (uint32_t row = 0; row < rows; row++) {
        CHECK(now->published < MOST_RECORDS);
        /* The rows of a claim keep their order. */
        now->records[now->published].since = (uint32_t)now->since[which];
        set_number(*lease, row, mark << 32 | now->published++);
    }
    bool keep = !now->kept && random_below(4) == 0;
    CHECK_EQUAL(rf_publish(*lease, rows, NULL, keep), RF_OK);
    if (keep)
        now->kept = *lease;
    else
        rf_lease_drop(*lease);
    *lease = NULL;
}

static void take_or_release(player *players, player *now)
{
    rf_lease **lease = &now->batches[random_below(OPEN_BATCHES)];
    if (*lease) {
        rf_lease_drop(*lease);
        *lease = NULL;
        return;
    }
    *lease = take(now->ring, 1 + random_below(MAX_ROWS));
    for (uint32_t row = 0; *lease && row < rf_lease_rows(*lease); row++)
        note_taken(players, number_at(*lease, row));
}

static void play(uint32_t slots, int moves)
{
    player players[HANDLES] = {{.ring = create_ring(slots)}};
    for (int i = 1; i < HANDLES; i++)
        players[i].ring = attach_ring();
    for (int i = 0; i < HANDLES; i++)
        players[i].records = calloc(MOST_RECORDS, sizeof *players[i].records);
    for (int move = 0; move < moves; move++) {
        player *now = &players[random_below(HANDLES)];
        if (random_below(10) == 0)
            scramble_cursors(now->ring);
        if (random_below(20) == 0 && now->kept) {
            rf_lease_drop(now->kept);
            now->kept = NULL;
        }
        if (random_below(2))
            claim_or_publish(now, (uint64_t)(now - players));
        else
            take_or_release(players, now);
    }
    for (int i = 0; i < HANDLES; i++) {
        for (int k = 0; k < OPEN_CLAIMS; k++)
            if (players[i].claims[k])
                rf_lease_drop(players[i].claims[k]);
        for (int k = 0; k < OPEN_BATCHES; k++)
            if (players[i].batches[k])
                rf_lease_drop(players[i].batches[k]);
        if (players[i].kept)
            rf_lease_drop(players[i].kept);
    }
    player rest_of_it = {.ring = players[0].ring};
    rf_lease *batch;
    while ((batch = take(rest_of_it.ring, MAX_ROWS))) {
        for (uint32_t row = 0; row < rf_lease_rows(batch); row++)
            note_taken(players, number_at(batch, row));
        rf_lease_drop(batch);
    }
    expect_all_free(players[0].ring);
    for (int i = HANDLES - 1; i >= 0; i--) {
        CHECK_EQUAL(players[i].taken, players[i].published);
        free(players[i].records);
        close_ring(players[i].ring);
    }
    shm_unlink(segment_name(0));
}

static void test_random_play(void)
{
    for (uint32_t slots = 1; slots < 20; slots += 1 + slots / 4)
        play(slots, SANITIZED ? 10000 : 100000);
}

/* ---- At once -------------------------------------------------------------------------------- */

enum { THREADS = 3, RECORDS = SANITIZED ? 3000 : 30000 };

typedef struct crew {
    rf_ring *ring;
    uint64_t mark;
    _Atomic uint32_t *taken; /* per record of every producer */
} crew;

static void *produce(void *argument)
{
    crew *own = argument;
    for (uint64_t i = 0; i < RECORDS; i++)
        CHECK_EQUAL(put_until(own->ring, own->mark << 32 | i, RF_FOREVER), RF_OK);
    return NULL;
}

static void *consume(void *argument)
{
    crew *own = argument;
    uint64_t next[2 * THREADS] = {0};
    rf_lease *batch;
    while (take_until(own->ring, 3, 1, RF_FOREVER, &batch) == RF_OK) {
        for (uint32_t row = 0; row < rf_lease_rows(batch); row++) {
            uint64_t number = number_at(batch, row), mark = number >> 32, count = (uint32_t)number;
            CHECK(count >= next[mark]); /* what it took before was older */
            next[mark] = count + 1;
            CHECK_EQUAL(atomic_fetch_add(&own->taken[mark * RECORDS + count], 1), 0);
        }
        rf_lease_drop(batch);
    }
    return NULL;
}

/* `sharing` producers publish through each of two handles; `takers` threads take. */
static void run_crews(uint32_t slots, uint32_t sharing, uint32_t takers)
{
    rf_ring *rings[2] = {create_ring(slots)};
    rings[1] = attach_ring();
    _Atomic uint32_t *taken = calloc(2 * THREADS * RECORDS, sizeof *taken);
    crew crews[2 * THREADS];
    pthread_t producers[2 * THREADS], consumers[THREADS];
    crew own = {rings[0], 0, taken};
    for (uint32_t i = 0; i < 2 * sharing; i++) {
        crews[i] = (crew){rings[i % 2], i, taken};
        producers[i] = start_thread(produce, &crews[i]);
    }
    for (uint32_t i = 0; i < takers; i++)
        consumers[i] = start_thread(consume, &own);
    for (uint32_t i = 0; i < 2 * sharing; i++)
        join_thread(producers[i]);
    rf_finish(rings[0]);
    for (uint32_t i = 0; i < takers; i++)
        join_thread(consumers[i]);
    for (uint32_t i = 0; i < 2 * sharing * RECORDS; i++)
        CHECK_EQUAL(taken[i], 1);
    free(taken);
    expect_all_free(rings[0]);
    close_ring(rings[1]);
    close_ring(rings[0]);
    shm_unlink(segment_name(0));
}

static void test_several_takers(void)
{
    run_crews(3, 1, THREADS);
    run_crews(16, 1, THREADS);
}

static void test_threads_share_a_handle(void)
{
    run_crews(3, THREADS, 1);
    run_crews(16, THREADS, 1);
}

static void test_everyone(void)
{
    run_crews(5, THREADS, THREADS);
}

/* Recovery takes a claim back row by row; who publishes meanwhile finds some of its rows lost. The others
 * must follow what was published before, not the rows that never were. */
static void test_rows_behind_a_lost_one(void)
{
    rf_ring *ring = create_ring(4), *other = attach_ring();
    put(ring, 1);
    rf_lease *late = claim(ring, 3);
    for (uint32_t row = 0; row < 3; row++)
        set_number(late, row, 10 + row);
    atomic_store(&ring->words[1], rf_word(RF_STATE_FREE, 0, rf_word_epoch(word_of(ring, 1)) + 1));
    CHECK_EQUAL(rf_publish(late, 3, NULL, 0), RF_SLOT_LOST);
    rf_lease_drop(late);
    CHECK_EQUAL(state_of(ring, 1), RF_STATE_FREE);
    CHECK_EQUAL(rf_link_slot(atomic_load(&ring->links[2])), 0);
    CHECK_EQUAL(rf_link_slot(atomic_load(&ring->links[3])), 2);
    atomic_store(&ring->header->take_cursor, 2);
    take_expecting(other, 1);
    take_expecting(other, 11);
    take_expecting(other, 12);
    expect_all_free(ring);
    close_ring(other);
    close_ring(ring);
}

static const test tests[] = {
    {"claims that are published crosswise lie in a row for takers", test_crossed_claims},
    {"so do many, of several rows, whatever the order of publishing", test_many_crossed_claims},
    {"a record that was claimed behind two that crossed follows both", test_behind_crossed_claims},
    {"a taker that is faster than who publishes crosswise breaks no order",
     test_crossed_with_a_taker},
    {"a record that comes again is not put behind what was claimed before it",
     test_crossed_with_a_record_that_comes_again},
    {"a record in a slot that was skipped waits for the older ones", test_skipped_slots},
    {"a batch ends where the next record in place is not the next in order",
     test_a_batch_ends_where_the_order_does},
    {"rows behind one that was taken back follow what was published before it",
     test_rows_behind_a_lost_one},
    {"random claims, publishes, pins, takes and cursors keep the order", test_random_play},
    {"each of several takers sees every producer's records in order", test_several_takers},
    {"threads that publish through one handle keep the order of each", test_threads_share_a_handle},
    {"many threads that publish and take lose and double nothing", test_everyone},
};

MAIN(tests)
