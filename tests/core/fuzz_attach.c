/*
 * Attaching to segments that are damaged, cut short, or complete but unusual.
 *
 * An input is a segment's head, byte for byte, after three numbers: the length of the file, the meaning of the head,
 * and the seed of the tables. If the head is literal, rf_ring_attach finds these bytes. If the head is a wish, its
 * geometry is planned anew first. In this way unusual but valid layouts pass the checks, and are used: stats, take,
 * put, claim, recovery.
 *
 * Built with -DRF_LIBFUZZER and clang's -fsanitize=fuzzer, this program is libFuzzer's target. Otherwise it has a
 * mutator of its own, which needs only gcc:
 *
 *     fuzz_attach 1000000 [seed]
 */
#include "garble.h"
#include "segment/locks.h"

enum { MOST_BYTES = 1 << 22, MOST_SLOTS = 1 << 14, MOST_TABLES = 1 << 21 };

typedef struct input {
    uint64_t cut; /* the length of the file relative to the right one; see length_of */
    uint32_t planned;
    uint32_t filling; /* the seed of the tables' contents */
    rf_header head;
} input;

static int memory = -1;

/* The segment's owner stays alive in every run, so that attaching gets as far as it can. */
static void own_the_segment(void)
{
    int ready[2];
    char byte = 0;
    memory = memfd_create("rf-fuzz", MFD_CLOEXEC);
    CHECK(memory >= 0 && pipe(ready) == 0);
    pid_t parent = getpid(), pid = fork();
    CHECK(pid != -1);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        char path[32]; /* a file description of its own: our own lock would not exclude us */
        snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
        if (getppid() != parent || !set_lock(open(path, O_RDWR), OWNER_BYTE, F_WRLCK) ||
            write(ready[1], &byte, 1) != 1)
            _exit(FAILED);
        for (;;)
            pause();
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    close(ready[1]);
}

static void right_input(input *now, uint32_t slots, uint64_t sample_bytes)
{
    rf_options options = options_for(slots);
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, &sample_bytes);
    CHECK_EQUAL(rf_plan(&options, geometry), RF_OK);
    memset(now, 0, sizeof *now);
    now->head.magic = RF_MAGIC;
    now->head.layout_version = RF_LAYOUT_VERSION;
    now->head.redeliver = 1;
    atomic_store(&now->head.initialized, 1);
    now->head.geometry = *geometry;
    free(geometry);
}

/* Plan the layout that the head asks for, within a size that can be tried quickly. */
static bool plan_as_wished(input *now)
{
    rf_geometry *geometry = &now->head.geometry;
    rf_options options = {.slots = geometry->slots % MOST_SLOTS + 1,
                          .participants = geometry->participants % RF_MAX_PARTICIPANTS + 1,
                          .huge_pages = geometry->page_bytes % 16 == 1};
    geometry->fields = geometry->fields % RF_MAX_FIELDS + 1;
    for (uint32_t i = 0; i < geometry->fields; i++) {
        rf_field *field = &geometry->field[i];
        field->name[0] = 'x';
        field->name[RF_NAME_BYTES - 1] = 0;
        field->dtype = field->dtype % (RF_DTYPES - 1) + 1;
        field->rank %= 4;
        for (uint32_t axis = 0; axis < field->rank; axis++)
            field->shape[axis] = field->shape[axis] % 64 + 1;
    }
    return rf_plan(&options, geometry) == RF_OK && geometry->slots <= 4 * MOST_SLOTS &&
           geometry->field[0].region_offset <= MOST_TABLES &&
           geometry->segment_bytes <= (UINT64_C(1) << 26);
}

/* The file is as long as the head says, or shorter, or longer, by a byte or by a page. */
static uint64_t length_of(const input *now)
{
    uint64_t right = now->head.geometry.segment_bytes, cut = now->cut >> 3;
    if (right > (UINT64_C(1) << 34))
        right = MOST_BYTES;
    switch (now->cut & 7) {
    case 0:
    case 1:
    case 2:
    case 3: return right;
    case 4: return cut % (right + 1);
    case 5: return right - (right ? 1 : 0);
    case 6: return cut % (2 * sizeof(rf_header));
    default: return right + cut % 8192;
    }
}

static void write_segment(const input *now, uint64_t length)
{
    static uint64_t filling[MOST_TABLES / 8];
    uint64_t head = length < sizeof now->head ? length : sizeof now->head;
    uint64_t tables = now->head.geometry.field[0].region_offset;
    CHECK_EQUAL(ftruncate(memory, 0), 0);
    CHECK_EQUAL(ftruncate(memory, (off_t)length), 0);
    if (now->filling && tables > sizeof(rf_header) && tables <= MOST_TABLES && tables <= length) {
        uint64_t from = now->head.geometry.participants_offset;
        if (from < sizeof(rf_header) || from > tables)
            from = sizeof(rf_header);
        seed(now->filling);
        for (uint64_t i = from / 8; i < tables / 8; i++)
            filling[i] = random_below(2) ? odd_number() : random_word() % 5 | UINT64_C(1) << 16;
        CHECK(pwrite(memory, filling + from / 8, tables / 8 * 8 - from / 8 * 8,
                     (off_t)(from / 8 * 8)) >= 0);
    }
    CHECK_EQUAL(pwrite(memory, &now->head, head, 0), (ssize_t)head);
}

/* A segment that passed the checks must have the size that its head says. */
static void use(rf_ring *ring)
{
    honest_peer self = {.ring = ring};
    const rf_geometry *geometry = rf_ring_geometry(ring);
    for (uint32_t field = 0; field < geometry->fields; field++) {
        volatile uint8_t *region = rf_ring_region(ring, field);
        CHECK(region[0] == region[geometry->field[field].region_bytes]);
        (void)region[2 * geometry->field[field].region_bytes - 1];
    }
    bool small = ring->record_bytes <= 4096;
    for (int i = 0; i < 6; i++) {
        rf_stats stats;
        rf_ring_stats(ring, &stats);
        if (small)
            put_any(&self);
        claim_any(&self);
        take_any(&self);
        rf_recover(ring);
    }
    stop_behaving(&self);
}

/* Returns 1 if the segment was attached to. */
static int try_attach(input *now)
{
    rf_ring *ring;
    if (now->planned & 1 && !plan_as_wished(now))
        return 0;
    write_segment(now, length_of(now));
    seed(now->filling + 1);
    int fd = dup(memory);
    CHECK(fd >= 0);
    rf_segment_version(fd);
    rf_segment_has_owner(fd);
    if (rf_ring_attach(fd, &ring) != RF_OK)
        return 0;
    use(ring);
    return 1;
}

#ifdef RF_LIBFUZZER

/* libFuzzer's input is the difference from a valid segment. At first there is none. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static input right, now;
    if (memory < 0) {
        own_the_segment();
        right_input(&right, 16, 100);
    }
    now = right;
    for (size_t i = 0; i < size && i < sizeof now; i++)
        ((uint8_t *)&now)[i] ^= data[i];
    try_attach(&now);
    return 0;
}

#else

static uint64_t runs = 20000, first_seed = 1;

/* Change a few numbers of the input, more often where they matter. */
static void mutate(input *now)
{
    uint32_t *numbers = (uint32_t *)now;
    uint32_t geometry = offsetof(input, head.geometry) / 4;
    for (uint32_t i = random_below(6); i > 0; i--) {
        switch (random_below(8)) {
        case 0: now->cut = random_word(); break;
        case 1: now->planned = random_below(2); break;
        case 2: now->filling = random_below(2) ? (uint32_t)random_word() : 0; break;
        case 3: /* before the geometry: cursors, flags, event counts; or anywhere */
            numbers[random_below(random_below(4) ? geometry : sizeof *now / 4)] =
                (uint32_t)odd_number();
            break;
        case 4:
            ((uint8_t *)now)[random_below(sizeof *now)] ^= (uint8_t)(1 << random_below(8));
            break;
        case 5: numbers[geometry + random_below(12)] = (uint32_t)odd_number(); break;
        case 6:
            numbers[geometry + 12 + random_below(sizeof(rf_field) / 2)] = (uint32_t)odd_number();
            break;
        default: /* a second field like the first, or another number of fields */
            now->head.geometry.field[1 + random_below(RF_MAX_FIELDS - 1)] =
                now->head.geometry.field[0];
            now->head.geometry.fields = 1 + random_below(8);
        }
    }
}

static void fuzz(void)
{
    static input now;
    uint64_t attached = 0;
    int64_t began = rf_now_ns();
    alarm(0);
    own_the_segment();
    for (uint64_t run = 0; run < runs; run++) {
        seed(first_seed + run); /* so that each run can be repeated alone */
        right_input(&now, 1 + random_below(64), 1 + random_below(5000));
        mutate(&now);
        alarm(WATCHDOG_SECONDS);
        attached += (uint64_t)try_attach(&now);
    }
    double seconds = (double)(rf_now_ns() - began) / 1e9;
    printf("    %.0f segments in %.1f s: %.0f/s; %.0f were attached to\n", (double)runs, seconds,
           (double)runs / seconds, (double)attached);
}

static const test tests[] = {
    {"a segment that is damaged or cut short is refused, or does no harm", fuzz},
};

int main(int argc, char **argv)
{
    if (argc > 1)
        runs = (uint64_t)atof(argv[1]);
    if (argc > 2)
        first_seed = (uint64_t)atof(argv[2]);
    return run_tests(1, argv, tests, COUNT(tests));
}

#endif
