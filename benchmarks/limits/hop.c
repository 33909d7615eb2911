/*
 * A batch of 64 records of 64 bytes from one core to another, in C: nanoseconds per batch.
 *
 *   ringfeed      rf_claim, write in place, rf_publish; rf_take of exactly 64, read, release
 *   bundle        the same with all 64 records in one slot of 4 KB: they arrive together, or not at all
 *   flags         the least possible protocol: one counter of written batches and one of read batches; as many
 *                 buffers as the ring has slots
 *   ping_pong     the same with one buffer: the two processes write and read it in turn
 *   pipe          each record is a write(2) into a pipe with the ring's capacity; read(2) of up to 64 records
 *   pipe_bundle   a batch is one write(2)
 *   mutex         a usual hand-written form: as many buffers behind a robust mutex and two condition variables in
 *                 shared memory; each process unlocks the mutex while it writes or reads a buffer in place
 *
 * Producer and taker are two processes, each pinned to a core. All ways write and read the same bytes with the same
 * code. BATCHES in the environment: the number of batches per figure.
 */
#include "rings.h"

#include <errno.h>
#include <pthread.h>

enum { ROWS = 64, RECORD_BYTES = 64, BATCH_BYTES = ROWS * RECORD_BYTES };
enum { BUFFERS = 16, WARM_UP = 4 * BUFFERS };

typedef struct record {
    _Alignas(LINE_BYTES) uint64_t words[RECORD_BYTES / sizeof(uint64_t)];
} record;

typedef struct channel {
    lonely written, read; /* batches */
    record buffers[BUFFERS][ROWS];
    rf_ring *ring;
    uint32_t rows; /* slots of the ring, or writes, per batch */
    int pipe[2];
    uint64_t batches;
    uint64_t buffer_count;
    _Alignas(LINE_PAIR_BYTES) pthread_mutex_t mutex; /* protects the two counts */
    uint64_t filled_count, emptied_count;
    _Alignas(LINE_PAIR_BYTES) pthread_cond_t filled;
    _Alignas(LINE_PAIR_BYTES) pthread_cond_t emptied;
} channel;

static void write_record(record *to, uint64_t number)
{
    for (size_t i = 0; i < RECORD_BYTES / sizeof(uint64_t); i++)
        to->words[i] = number + i;
}

static uint64_t read_record(const record *from)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < RECORD_BYTES / sizeof(uint64_t); i++)
        sum += from->words[i];
    return sum;
}

/* The sum of one record that write_record wrote. */
static uint64_t sum_of(uint64_t number)
{
    return read_record(&(record){{number, number + 1, number + 2, number + 3, number + 4,
                                  number + 5, number + 6, number + 7}});
}

static void expect_sum(uint64_t sum, uint64_t first, uint64_t rows)
{
    uint64_t expected = 0;
    for (uint64_t row = 0; row < rows; row++)
        expected += sum_of(first + row);
    if (sum != expected) {
        fprintf(stderr, "records from %llu on differ from the sent ones\n",
                (unsigned long long)first);
        exit(1);
    }
}

static void write_batch(record *to, uint64_t batch)
{
    for (uint64_t row = 0; row < ROWS; row++)
        write_record(&to[row], batch * ROWS + row);
}

static uint64_t read_batch(const record *from)
{
    uint64_t sum = 0;
    for (uint64_t row = 0; row < ROWS; row++)
        sum += read_record(&from[row]);
    return sum;
}

static uint64_t batches_asked_for(void)
{
    const char *text = getenv("BATCHES");
    return text ? strtoull(text, NULL, 10) : 50000;
}

/* ---- With flags alone ----------------------------------------------------------------------- */

static void write_behind_flags(void *shared)
{
    channel *between = shared;
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        if (batch >= between->buffer_count)
            wait_for(&between->read.value, batch - between->buffer_count + 1);
        write_batch(between->buffers[batch % between->buffer_count], batch);
        atomic_store_explicit(&between->written.value, batch + 1, memory_order_release);
    }
}

static double read_behind_flags(void *shared)
{
    channel *between = shared;
    int64_t begun = 0;
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        if (batch == WARM_UP)
            begun = now_ns();
        wait_for(&between->written.value, batch + 1);
        uint64_t sum = read_batch(between->buffers[batch % between->buffer_count]);
        atomic_store_explicit(&between->read.value, batch + 1, memory_order_release);
        expect_sum(sum, batch * ROWS, ROWS);
    }
    return (double)(now_ns() - begun) / (double)(between->batches - WARM_UP);
}

static double hop_by_flags(int buffers)
{
    int cores[2];
    int count = cores_at_hand(cores, 2);
    channel *between = shared_memory(sizeof *between);
    between->batches = WARM_UP + batches_asked_for();
    between->buffer_count = (uint64_t)buffers;
    double figure =
        with_a_helper(write_behind_flags, read_behind_flags, between, cores[0], cores[count - 1]);
    munmap(between, sizeof *between);
    return figure;
}

/* ---- Through a ring ------------------------------------------------------------------------- */

static uint64_t least_of(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

static void put_into_ring(void *shared)
{
    channel *between = shared;
    uint64_t in_a_slot = ROWS / between->rows, next = 0;
    rf_lease *lease;
    rf_status status;
    for (uint64_t left = between->batches * between->rows; left > 0;) {
        uint32_t rows = (uint32_t)least_of(left, between->rows);
        while ((status = rf_claim(between->ring, rows, RF_FOREVER, &lease)) == RF_AGAIN)
            ;
        if (status != RF_OK)
            _exit(2);
        record *records = rf_lease_data(lease, 0);
        uint32_t claimed = rf_lease_rows(lease);
        for (uint64_t i = 0; i < claimed * in_a_slot; i++)
            write_record(&records[i], next++);
        if (rf_publish(lease, claimed, NULL, 0) != RF_OK)
            _exit(3);
        rf_lease_drop(lease);
        left -= claimed;
    }
}

static double take_from_ring(void *shared)
{
    channel *between = shared;
    uint64_t in_a_slot = ROWS / between->rows, total = between->batches * ROWS;
    rf_lease *lease;
    rf_status status;
    int64_t begun = 0;
    uint64_t next = 0, first = 0;
    while (next < total) {
        if (next >= WARM_UP * ROWS && begun == 0) {
            begun = now_ns();
            first = next;
        }
        /* A held slot may split a run, so a take may return fewer records. */
        uint32_t rows = (uint32_t)least_of((total - next) / in_a_slot, between->rows);
        rf_take_request request = {.max_rows = rows, .min_rows = rows, .deadline_ns = RF_FOREVER};
        while ((status = rf_take(between->ring, &request, &lease)) == RF_AGAIN)
            ;
        if (status != RF_OK) {
            fprintf(stderr, "take: status %d\n", (int)status);
            exit(1);
        }
        const record *records = rf_lease_data(lease, 0);
        uint64_t sum = 0, count = rf_lease_rows(lease) * in_a_slot;
        for (uint64_t i = 0; i < count; i++)
            sum += read_record(&records[i]);
        rf_lease_drop(lease);
        expect_sum(sum, next, count);
        next += count;
    }
    return (double)(now_ns() - begun) * ROWS / (double)(next - first);
}

static double hop_through_ring(int rows)
{
    int cores[2];
    int count = cores_at_hand(cores, 2);
    channel *between = shared_memory(sizeof *between);
    between->batches = WARM_UP + batches_asked_for();
    between->rows = (uint32_t)rows;
    between->ring = ring_of(
        between->rows * BUFFERS,
        BATCH_BYTES / between->rows); /* the child joins as a participant with its first claim */
    double figure =
        with_a_helper(put_into_ring, take_from_ring, between, cores[0], cores[count - 1]);
    rf_ring_close(between->ring);
    rf_ring_drop(between->ring);
    munmap(between, sizeof *between);
    return figure;
}

/* ---- Through a pipe ------------------------------------------------------------------------- */

static void write_into_pipe(void *shared)
{
    channel *between = shared;
    static record own[ROWS];
    uint64_t in_a_write = ROWS / between->rows;
    close(between->pipe[0]);
    ssize_t bytes = (ssize_t)in_a_write * RECORD_BYTES; /* a write of up to PIPE_BUF is atomic */
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        write_batch(own, batch);
        for (uint64_t row = 0; row < ROWS; row += in_a_write)
            if (write(between->pipe[1], &own[row], (size_t)bytes) != bytes)
                _exit(2);
    }
}

static void fill_from_pipe(int from, record *own)
{
    for (size_t done = 0; done < BATCH_BYTES;) {
        ssize_t count = read(from, (char *)own + done, BATCH_BYTES - done);
        if (count <= 0)
            give_up("a pipe");
        done += (size_t)count;
    }
}

static double read_from_pipe(void *shared)
{
    channel *between = shared;
    static record own[ROWS];
    int64_t begun = 0;
    close(between->pipe[1]); /* so that read(2) reports the writer's end */
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        if (batch == WARM_UP)
            begun = now_ns();
        fill_from_pipe(between->pipe[0], own);
        expect_sum(read_batch(own), batch * ROWS, ROWS);
    }
    return (double)(now_ns() - begun) / (double)(between->batches - WARM_UP);
}

static double hop_by_pipe(int writes)
{
    int cores[2];
    int count = cores_at_hand(cores, 2);
    channel *between = shared_memory(sizeof *between);
    between->batches = WARM_UP + batches_asked_for();
    between->rows = (uint32_t)writes;
    if (pipe(between->pipe) || fcntl(between->pipe[1], F_SETPIPE_SZ, BUFFERS * BATCH_BYTES) < 0)
        give_up("a pipe");
    double figure =
        with_a_helper(write_into_pipe, read_from_pipe, between, cores[0], cores[count - 1]);
    close(between->pipe[0]);
    munmap(between, sizeof *between);
    return figure;
}

/* ---- Behind a mutex -------------------------------------------------------------------------- */

/* Handle the result of a function of a robust mutex, which reports that a process died as its owner. */
static void hold(channel *between, int failed)
{
    if (failed == EOWNERDEAD)
        failed = pthread_mutex_consistent(&between->mutex);
    if (failed) {
        errno = failed;
        give_up("a mutex");
    }
}

static void lock(channel *between)
{
    hold(between, pthread_mutex_lock(&between->mutex));
}

static void wait_on(channel *between, pthread_cond_t *condition)
{
    hold(between, pthread_cond_wait(condition, &between->mutex));
}

static void write_behind_mutex(void *shared)
{
    channel *between = shared;
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        lock(between);
        while (between->filled_count - between->emptied_count == BUFFERS)
            wait_on(between, &between->emptied);
        pthread_mutex_unlock(&between->mutex);
        write_batch(between->buffers[batch % BUFFERS], batch);
        lock(between);
        between->filled_count++;
        pthread_mutex_unlock(&between->mutex);
        pthread_cond_signal(&between->filled);
    }
}

static double read_behind_mutex(void *shared)
{
    channel *between = shared;
    int64_t begun = 0;
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        if (batch == WARM_UP)
            begun = now_ns();
        lock(between);
        while (between->filled_count == between->emptied_count)
            wait_on(between, &between->filled);
        pthread_mutex_unlock(&between->mutex);
        uint64_t sum = read_batch(between->buffers[batch % BUFFERS]);
        lock(between);
        between->emptied_count++;
        pthread_mutex_unlock(&between->mutex);
        pthread_cond_signal(&between->emptied);
        expect_sum(sum, batch * ROWS, ROWS);
    }
    return (double)(now_ns() - begun) / (double)(between->batches - WARM_UP);
}

static double hop_behind_mutex(int unused)
{
    (void)unused;
    int cores[2];
    int count = cores_at_hand(cores, 2);
    channel *between = shared_memory(sizeof *between);
    pthread_mutexattr_t of_mutex;
    pthread_condattr_t of_condition;
    pthread_mutexattr_init(&of_mutex);
    pthread_mutexattr_setpshared(&of_mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&of_mutex, PTHREAD_MUTEX_ROBUST);
    pthread_condattr_init(&of_condition);
    pthread_condattr_setpshared(&of_condition, PTHREAD_PROCESS_SHARED);
    if (pthread_mutex_init(&between->mutex, &of_mutex) ||
        pthread_cond_init(&between->filled, &of_condition) ||
        pthread_cond_init(&between->emptied, &of_condition))
        give_up("a mutex");
    between->batches = WARM_UP + batches_asked_for();
    double figure =
        with_a_helper(write_behind_mutex, read_behind_mutex, between, cores[0], cores[count - 1]);
    munmap(between, sizeof *between);
    return figure;
}

int main(int argc, char **argv)
{
    static const figure figures[] = {
        {"ringfeed", hop_through_ring, ROWS}, {"bundle", hop_through_ring, 1},
        {"flags", hop_by_flags, BUFFERS},     {"ping_pong", hop_by_flags, 1},
        {"pipe", hop_by_pipe, ROWS},          {"pipe_bundle", hop_by_pipe, 1},
        {"mutex", hop_behind_mutex, 0},
    };
    return print_figures(figures, sizeof figures / sizeof figures[0], argc, argv);
}
