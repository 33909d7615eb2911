/* The order of records, under random operations and with threads that publish at the same instant. */
#include "random_cursors.h"

/* ---- At random ------------------------------------------------------------------------------ */

enum { HANDLES = 3, OPEN_CLAIMS = 4, OPEN_BATCHES = 3, MAX_ROWS = 5, MOST_RECORDS = 1 << 19 };

typedef struct player {
    rf_ring *ring;
    rf_lease *claims[OPEN_CLAIMS], *batches[OPEN_BATCHES];
    rf_lease *kept;
    uint64_t published, since[OPEN_CLAIMS], taken;
    struct {
        uint32_t since; /* the number of records published when this one was claimed */
        bool taken;
    } *records;
    uint64_t all_taken; /* every record below this number was taken */
} player;

/* Every record that was published before this record was claimed must be taken already. */
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

/* ---- Threads -------------------------------------------------------------------------------- */

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
            CHECK(count >= next[mark]); /* the records taken before are older */
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

static void test_many_threads_at_both_ends(void)
{
    run_crews(5, THREADS, THREADS);
}

/* Recovery takes a claim back row by row, so a producer that publishes meanwhile finds some rows lost. The
 * other rows must follow the records published before them, not the lost rows. */
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
    {"rows behind a row that was taken back follow the records published before it",
     test_rows_behind_a_lost_one},
    {"random claims, publishes, kept slots, takes and cursors keep the order", test_random_play},
    {"each of several takers sees every producer's records in order", test_several_takers},
    {"threads that publish through one handle keep the order of each", test_threads_share_a_handle},
    {"many threads that publish and take lose and double nothing", test_many_threads_at_both_ends},
};

MAIN(tests)
