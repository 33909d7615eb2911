/*
 * A batch of 64 records of 64 bytes from one core to another, in C: nanoseconds per batch.
 *
 *   ringfeed      rf_claim, write in place, rf_publish; rf_take of exactly 64, read, release
 *   flags         the least that could work: one number says how many batches were written, one how many were
 *                 read; as many buffers as the ring has slots
 *   ping_pong     the same with one buffer: it is written when it was read, and read when it was written
 *
 * Producer and taker are two processes, each pinned to a core. All write and read the same bytes with the same code.
 * BATCHES in the environment: how many batches a figure is taken from.
 */
#include "rounds.h"

#include "ringfeed.h"

enum { ROWS = 64, RECORD_BYTES = 64, BUFFERS = 16, SLOTS = ROWS * BUFFERS, WARM_UP = 4 * BUFFERS };

typedef struct record {
    _Alignas(LINE_BYTES) uint64_t words[RECORD_BYTES / sizeof(uint64_t)];
} record;

typedef struct desk {
    lonely written, read; /* batches */
    record buffers[BUFFERS][ROWS];
    rf_ring *ring;
    uint64_t batches;
    uint64_t buffer_count;
} desk;

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

/* Of one record that write_record wrote. */
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
        fprintf(stderr, "records from %llu on were not what was sent\n", (unsigned long long)first);
        exit(1);
    }
}

static uint64_t batches_asked_for(void)
{
    const char *text = getenv("BATCHES");
    return text ? strtoull(text, NULL, 10) : 50000;
}

/* ---- With flags alone ----------------------------------------------------------------------- */

static void write_behind_flags(void *shared)
{
    desk *between = shared;
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        if (batch >= between->buffer_count)
            wait_for(&between->read.value, batch - between->buffer_count + 1);
        record *buffer = between->buffers[batch % between->buffer_count];
        for (uint64_t row = 0; row < ROWS; row++)
            write_record(&buffer[row], batch * ROWS + row);
        atomic_store_explicit(&between->written.value, batch + 1, memory_order_release);
    }
}

static double read_behind_flags(void *shared)
{
    desk *between = shared;
    int64_t begun = 0;
    for (uint64_t batch = 0; batch < between->batches; batch++) {
        if (batch == WARM_UP)
            begun = now_ns();
        wait_for(&between->written.value, batch + 1);
        const record *buffer = between->buffers[batch % between->buffer_count];
        uint64_t sum = 0;
        for (uint64_t row = 0; row < ROWS; row++)
            sum += read_record(&buffer[row]);
        atomic_store_explicit(&between->read.value, batch + 1, memory_order_release);
        expect_sum(sum, batch * ROWS, ROWS);
    }
    return (double)(now_ns() - begun) / (double)(between->batches - WARM_UP);
}

static double hop_by_flags(int buffers)
{
    int cores[2];
    int count = cores_at_hand(cores, 2);
    desk *between = shared_memory(sizeof *between);
    between->batches = WARM_UP + batches_asked_for();
    between->buffer_count = (uint64_t)buffers;
    double figure =
        with_a_helper(write_behind_flags, read_behind_flags, between, cores[0], cores[count - 1]);
    munmap(between, sizeof *between);
    return figure;
}

/* ---- Through a ring ------------------------------------------------------------------------- */

static rf_ring *new_ring(void)
{
    static rf_geometry geometry; /* of one field of 64 bytes */
    rf_options options = {.slots = SLOTS, .participants = 16, .redeliver = 1, .numa_node = -1};
    geometry = (rf_geometry){.fields = 1};
    geometry.field[0] =
        (rf_field){.name = "x", .dtype = RF_UINT8, .rank = 1, .shape = {RECORD_BYTES}};
    rf_ring *ring;
    char name[32];
    snprintf(name, sizeof name, "/rf-limits-%d", (int)getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    shm_unlink(name); /* the child inherits it */
    if (fd < 0 || rf_plan(&options, &geometry) != RF_OK ||
        rf_ring_create(fd, &options, &geometry, &ring) != RF_OK)
        give_up("a ring");
    return ring;
}

static void put_into_ring(void *shared)
{
    desk *between = shared;
    rf_lease *lease;
    rf_status status;
    for (uint64_t next = 0, end = between->batches * ROWS; next < end;) {
        uint64_t rows = end - next < ROWS ? end - next : ROWS;
        while ((status = rf_claim(between->ring, (uint32_t)rows, RF_FOREVER, &lease)) == RF_AGAIN)
            ;
        if (status != RF_OK)
            _exit(2);
        record *slots = rf_lease_data(lease, 0);
        uint32_t claimed = rf_lease_rows(lease);
        for (uint32_t row = 0; row < claimed; row++)
            write_record(&slots[row], next++);
        if (rf_publish(lease, claimed, NULL, 0) != RF_OK)
            _exit(3);
        rf_lease_drop(lease);
    }
}

static double take_from_ring(void *shared)
{
    desk *between = shared;
    rf_lease *lease;
    rf_status status;
    int64_t begun = 0;
    uint64_t next = 0, first = 0;
    while (next < between->batches * ROWS) {
        if (next >= WARM_UP * ROWS && begun == 0) {
            begun = now_ns();
            first = next;
        }
        /* Shorter runs are taken, too, where a held slot parts them: the last may lack some. */
        uint32_t left =
            between->batches * ROWS - next < ROWS ? between->batches * ROWS - next : ROWS;
        rf_take_request request = {.max_rows = ROWS, .min_rows = left, .deadline_ns = RF_FOREVER};
        while ((status = rf_take(between->ring, &request, &lease)) == RF_AGAIN)
            ;
        if (status != RF_OK) {
            fprintf(stderr, "take: status %d\n", (int)status);
            exit(1);
        }
        const record *slots = rf_lease_data(lease, 0);
        uint64_t sum = 0, rows = rf_lease_rows(lease);
        for (uint64_t row = 0; row < rows; row++)
            sum += read_record(&slots[row]);
        rf_lease_drop(lease);
        expect_sum(sum, next, rows);
        next += rows;
    }
    return (double)(now_ns() - begun) * ROWS / (double)(next - first);
}

static double hop_through_ring(int unused)
{
    (void)unused;
    int cores[2];
    int count = cores_at_hand(cores, 2);
    desk *between = shared_memory(sizeof *between);
    between->batches = WARM_UP + batches_asked_for();
    between->ring = new_ring(); /* the child joins as itself when it first claims */
    double figure =
        with_a_helper(put_into_ring, take_from_ring, between, cores[0], cores[count - 1]);
    rf_ring_close(between->ring);
    rf_ring_drop(between->ring);
    munmap(between, sizeof *between);
    return figure;
}

int main(int argc, char **argv)
{
    static const figure figures[] = {
        {"ringfeed", hop_through_ring, 0},
        {"flags", hop_by_flags, BUFFERS},
        {"ping_pong", hop_by_flags, 1},
    };
    return print_figures(figures, sizeof figures / sizeof figures[0], argc, argv);
}
