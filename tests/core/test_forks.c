/* Forked children: each is a participant of its own. */
#include "roles.h"

/* ---- fork ----------------------------------------------------------------------------------- */

static void test_a_child_is_a_participant_of_its_own(void)
{
    rf_ring *ring = create_ring(8);
    rf_lease *written = claim(ring, 1), *batch;
    rf_lease *kept_claim = claim(ring, 1);
    set_number(kept_claim, 0, 4);
    CHECK_EQUAL(rf_publish(kept_claim, 1, NULL, 1), RF_OK);
    batch = take(ring, 1);
    uint64_t words[3] = {word_of(ring, 0), word_of(ring, 1), word_of(ring, 2)};
    pid_t child = fork();
    if (child == 0) {
        CHECK(!rf_ring_is_owner(ring));
        CHECK_EQUAL(rf_publish(written, 1, NULL, 0), RF_SLOT_LOST);
        rf_lease_drop(written);
        rf_lease_drop(kept_claim);
        CHECK_EQUAL(number_at(batch, 0), 4); /* the child may read the rows that its parent holds */
        rf_lease_drop(batch);
        put(ring, 44);
        CHECK(rf_self(ring) > 1);
        CHECK(!rf_ring_is_owner(ring));
        rf_lease *left_behind = claim(ring, 1);
        CHECK(left_behind != NULL);
        close_ring(ring); /* the child's close is not the owner's close */
        _exit(PASSED);
    }
    expect_success(child);
    for (uint32_t slot = 0; slot < 2; slot++)
        CHECK_EQUAL(word_of(ring, slot), words[slot]);
    CHECK(!rf_ring_is_closed(ring) && rf_ring_is_owner(ring));
    CHECK_EQUAL(rf_recover(ring), 1); /* the child left a claim behind */
    CHECK_EQUAL(participants_of(ring), 1);
    rf_lease_drop(batch);
    rf_lease_drop(kept_claim);
    publish(written, 1, 3);
    take_expecting(ring, 44);
    take_expecting(ring, 3);
    expect_all_free(ring);
    close_ring(ring);
}

static void test_a_child_inherits_no_locks(void)
{
    role *witness;
    rf_ring *ring = create_ring(4);
    rf_lease *written = claim(ring, 1);
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0) {
            if (i % 2)
                close_ring(ring); /* closes the child's copies of the parent's descriptors */
            _exit(PASSED);
        }
        expect_success(child);
    }
    pid_t other = start_role(&witness, NULL, NULL);
    pid_t child = fork();
    if (child == 0) {
        rf_ring *own = attach_ring();
        CHECK_EQUAL(rf_recover(own), 0); /* another participant sees this process alive */
        CHECK_EQUAL(rf_segment_has_owner(own->fd), 1);
        close_ring(own);
        _exit(PASSED);
    }
    expect_success(child);
    atomic_store(&witness->may_continue, 1);
    expect_success(other);
    publish(written, 1, 1);
    take_expecting(ring, 1);
    close_ring(ring);
}

static _Atomic uint32_t go;

static void *put_at_once(void *ring)
{
    await(&go, 1);
    put(ring, 1);
    return NULL;
}

static void test_threads_of_a_child_join_once(void)
{
    enum { THREADS = 8 };
    rf_ring *ring = create_ring(64);
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t threads[THREADS];
            for (int i = 0; i < THREADS; i++)
                threads[i] = start_thread(put_at_once, ring);
            atomic_store(&go, 1);
            for (int i = 0; i < THREADS; i++)
                join_thread(threads[i]);
            CHECK_EQUAL(participants_of(ring), 2);
            close_ring(ring);
            _exit(PASSED);
        }
        expect_success(child);
        CHECK_EQUAL(participants_of(ring), 1);
        rf_lease *lease;
        for (uint32_t rows = 0; rows < THREADS; rows += rf_lease_rows(lease), rf_lease_drop(lease))
            CHECK((lease = take(ring, THREADS)) != NULL);
    }
    expect_all_free(ring);
    close_ring(ring);
}

static _Atomic uint32_t enough;

static void *work_on(void *ring)
{
    for (uint64_t i = 0; !atomic_load(&enough); i++) {
        put(ring, i);
        take_expecting(ring, i);
        if (i % 16 == 0 &&
            i < 16 * 200) /* each leaves a descriptor open as long as `ring` is open */
            close_ring(attach_ring());
    }
    return NULL;
}

static void test_fork_beside_working_threads(void)
{
    if (SANITIZED)
        skip("a sanitizer's own allocator may be locked by another thread at the fork: gcc 12 "
             "hangs there");
    rf_ring *ring = create_ring(4);
    pthread_t thread = start_thread(work_on, ring);
    for (int round = 0; round < 100; round++) {
        pid_t child = fork();
        if (child == 0) {
            rf_lease *lease = NULL;
            while (claim_until(ring, 1, RF_FOREVER, &lease) != RF_OK)
                ;
            rf_lease_drop(lease);
            close_ring(ring);
            _exit(PASSED);
        }
        expect_success(child);
    }
    atomic_store(&enough, 1);
    join_thread(thread);
    rf_recover(ring);
    expect_all_free(ring);
    close_ring(ring);
}

static const test tests[] = {
    {"a forked child is a participant of its own and gives back none of its parent's slots",
     test_a_child_is_a_participant_of_its_own},
    {"a forked child neither inherits nor drops locks", test_a_child_inherits_no_locks},
    {"threads of a forked child join as one participant", test_threads_of_a_child_join_once},
    {"a fork while other threads work leaves the child able to work",
     test_fork_beside_working_threads},
};

MAIN(tests)
