/* The right to remove a segment's name, and rf_segment_inspect, which reads a segment without attaching. */
#include "check.h"

static const char *path_of(int number)
{
    static char path[80];
    snprintf(path, sizeof path, "/dev/shm%s", segment_name(number));
    return path;
}

static int remove_segment(int fd, int spare_the_living, rf_status expected)
{
    int removed;
    struct stat status;
    CHECK_EQUAL(fstat(fd, &status), 0);
    CHECK_EQUAL(
        rf_segment_remove(status.st_dev, status.st_ino, path_of(0), spare_the_living, &removed),
        expected);
    return removed;
}

static void expect_spared(void *none)
{
    (void)none;
    int fd = open_segment(0);
    CHECK_EQUAL(remove_segment(fd, 1, RF_AGAIN), 0);
    close(fd);
}

static void test_the_living_are_spared(void)
{
    rf_ring *ring = create_ring(4);
    expect_success(spawn(expect_spared, NULL));
    CHECK_EQUAL(remove_segment(ring->fd, 1, RF_AGAIN), 0);
    rf_ring_close(ring);
    CHECK_EQUAL(remove_segment(ring->fd, 1, RF_OK), 1);
    CHECK_EQUAL(remove_segment(ring->fd, 0, RF_OK), 0);
    rf_ring_drop(ring);
}

static void test_an_owner_removes_its_own_name_only(void)
{
    rf_ring *old = create_ring(4);
    CHECK_EQUAL(remove_segment(old->fd, 0, RF_OK), 1);
    int other = create_segment(0);
    CHECK_EQUAL(remove_segment(old->fd, 0, RF_OK), 0);
    CHECK_EQUAL(remove_segment(other, 1, RF_OK), 1);
    close(other);
    rf_ring_close(old);
    rf_ring_drop(old);
}

static _Atomic uint32_t *step;

static void hold_the_removal_lock(void *none)
{
    (void)none;
    CHECK_EQUAL(rf_segment_lock_removal(open_segment(0)), RF_OK);
    atomic_store(step, 1);
    await(step, 2);
}

static void test_one_process_at_a_time_removes(void)
{
    step = shared_memory(sizeof *step);
    int fd = create_segment(0);
    pid_t child = spawn(hold_the_removal_lock, NULL);
    await(step, 1);
    CHECK_EQUAL(remove_segment(fd, 0, RF_AGAIN), 0);
    kill_and_reap(child);
    CHECK_EQUAL(remove_segment(fd, 0, RF_OK), 1);
    close(fd);
}

static void take_the_removal_lock(void *none)
{
    (void)none;
    int fd = open_segment(0);
    CHECK_EQUAL(rf_segment_lock_removal(fd), RF_OK); /* remove_segment kept no lock */
}

static void test_the_removal_lock_ends_with_the_removal(void)
{
    rf_ring *ring = create_ring(4);
    CHECK_EQUAL(remove_segment(ring->fd, 1, RF_AGAIN), 0);
    expect_success(spawn(take_the_removal_lock, NULL));
    close_ring(ring);
}

/* The number of descriptors that this process has open. */
static int open_descriptors(void)
{
    glob_t found;
    CHECK_EQUAL(glob("/proc/self/fd/*", 0, NULL, &found), 0);
    int count = (int)found.gl_pathc;
    globfree(&found);
    return count;
}

static void test_no_descriptor_stays_behind(void)
{
    rf_ring *ring = create_ring(4);
    int before = open_descriptors();
    for (int round = 0; round < 20; round++) {
        rf_ring *second = attach_ring(), *third = attach_ring();
        close(open_segment(0));
        close_ring(third);
        close_ring(second);
        CHECK_EQUAL(open_descriptors(), before);
    }
    CHECK_EQUAL(rf_recover(ring), 0);
    close_ring(ring);
    CHECK_EQUAL(open_descriptors(), before - 1);
}

static void join_and_wait(void *none)
{
    (void)none;
    attach_ring();
    atomic_store(step, 1);
    await(step, 2);
}

static void test_inspection_counts_living_participants(void)
{
    rf_segment_view view;
    step = shared_memory(sizeof *step);
    rf_ring *ring = create_ring(5);
    pid_t child = spawn(join_and_wait, NULL);
    await(step, 1);
    CHECK_EQUAL(rf_segment_inspect(ring->fd, &view), RF_OK);
    CHECK_EQUAL(view.participants, 2);
    CHECK_EQUAL(view.creator_pid, getpid());
    CHECK_EQUAL(view.layout_version, RF_LAYOUT_VERSION);
    CHECK(memcmp(&view.geometry, &ring->geometry, sizeof view.geometry) == 0);
    kill_and_reap(child);
    CHECK_EQUAL(rf_segment_inspect(ring->fd, &view), RF_OK);
    CHECK_EQUAL(view.participants, 1);
    close_ring(ring);
}

static void test_inspection_of_any_file_returns_a_status(void)
{
    rf_segment_view view;
    rf_ring *ring = create_ring(4);
    static uint8_t header[sizeof(rf_header)];
    memcpy(header, ring->header, sizeof header);
    for (size_t at = 0; at < 1024; at++) {
        uint8_t *byte = (uint8_t *)ring->header + at;
        *byte ^= 0xff;
        rf_segment_inspect(ring->fd, &view);
        CHECK(view.geometry.participants <= RF_MAX_PARTICIPANTS);
        *byte ^= 0xff;
    }
    int fd = create_segment(1);
    CHECK_EQUAL(rf_segment_inspect(fd, &view), RF_UNFINISHED);
    CHECK(write(fd, header, 100) == 100);
    CHECK_EQUAL(rf_segment_inspect(fd, &view), RF_NOT_A_RING);
    CHECK(pwrite(fd, header, sizeof header, 0) == sizeof header);
    CHECK_EQUAL(rf_segment_inspect(fd, &view), RF_DAMAGED); /* the rest of the segment is missing */
    header[0]++;
    CHECK(pwrite(fd, header, sizeof header, 0) == sizeof header);
    CHECK_EQUAL(rf_segment_inspect(fd, &view), RF_NOT_A_RING);
    close(fd);
    close_ring(ring);
}

static const test tests[] = {
    {"a segment that a living process owns is spared", test_the_living_are_spared},
    {"an owner removes the name of its own segment only", test_an_owner_removes_its_own_name_only},
    {"one process at a time has the lock for removing a name", test_one_process_at_a_time_removes},
    {"the lock for removing a name ends with the removal",
     test_the_removal_lock_ends_with_the_removal},
    {"handles that are attached and closed leave no descriptor open",
     test_no_descriptor_stays_behind},
    {"an inspection counts the living participants", test_inspection_counts_living_participants},
    {"an inspection of any file returns a status", test_inspection_of_any_file_returns_a_status},
};

MAIN(tests)
