/*
 * A hostile peer, and honest peers that must survive its writes.
 *
 * garble() writes into the tables of a mapped segment: random numbers anywhere, and plausible nonsense. behave()
 * does anything that a caller may do, with waits that end. The results do not matter. Restoring the header is not
 * counted as a mutation: it only lets honest peers attach again.
 */
#ifndef RF_GARBLE_H
#define RF_GARBLE_H

#include "check.h"

#include <stddef.h>

#include "chance.h"

typedef struct garbler {
    rf_ring *ring;
    rf_header pristine;
    uint64_t tables_bytes;
} garbler;

static inline void begin_garbling(garbler *own, rf_ring *ring)
{
    own->ring = ring;
    memcpy(&own->pristine, ring->header, sizeof own->pristine);
    own->tables_bytes = ring->geometry.field[0].region_offset;
}

static inline void restore_header(const garbler *own)
{
    memcpy(&own->ring->header->geometry, &own->pristine.geometry, sizeof(rf_geometry));
    own->ring->header->magic = own->pristine.magic;
    own->ring->header->layout_version = own->pristine.layout_version;
    atomic_store(&own->ring->header->initialized, 1u);
    atomic_store(&own->ring->header->closed, 0u);
    atomic_store(&own->ring->header->finished, 0u);
    own->ring->header->producers = own->pristine.producers;
}

/* ---- Plausible nonsense --------------------------------------------------------------------- */

static inline uint32_t any_slot(const garbler *own)
{
    return random_below(own->ring->slot_count);
}

/* A plausible word: its owner may be present or not, and its epoch is near the true one. */
static inline uint64_t plausible_word(const garbler *own, uint32_t slot)
{
    uint64_t epoch = rf_word_epoch(word_of(own->ring, slot)) + random_below(3) - 1;
    uint32_t owner = random_below(4) ? random_below(6) : (uint32_t)random_word() & 0xfff;
    return rf_word((rf_state)random_below(5), owner, random_below(8) ? epoch : odd_number()) |
           (random_below(4) ? 0 : RF_KEEP);
}

static inline uint64_t link_to(const garbler *own, uint32_t slot)
{
    return rf_link(slot, rf_word_epoch(word_of(own->ring, slot)));
}

/* Make some slots READY, each waiting for the next one. */
static inline uint32_t make_circle(const garbler *own)
{
    uint32_t first = any_slot(own), step = 1 + any_slot(own), length = 1 + random_below(64);
    for (uint32_t i = 0, slot = first; i < length; i++) {
        uint32_t next = i + 1 == length ? first : (slot + step) % own->ring->slot_count;
        uint64_t epoch = rf_word_epoch(word_of(own->ring, slot));
        atomic_store(&own->ring->links[slot], link_to(own, next));
        atomic_store(&own->ring->words[slot],
                     rf_ready_again(epoch, random_below(4) ? 0 : random_below(4)));
        slot = next;
    }
    return 2 * length;
}

static inline uint32_t flood_words(const garbler *own)
{
    uint32_t most = own->ring->slot_count < 64 ? own->ring->slot_count : 64, from = any_slot(own);
    uint64_t state = random_below(8), owner = random_below(6);
    for (uint32_t i = 0; i < most; i++) {
        uint32_t slot = rf_wrap(own->ring, from + i);
        uint64_t epoch = rf_word_epoch(word_of(own->ring, slot));
        atomic_store(&own->ring->words[slot], rf_word((rf_state)state, (uint32_t)owner, epoch));
    }
    return most;
}

static inline uint32_t garble_record(const garbler *own)
{
    uint32_t slot = any_slot(own);
    rf_slot *record = &own->ring->slots[slot];
    if (random_below(2)) {
        atomic_store(&own->ring->links[slot],
                     random_below(2) ? link_to(own, any_slot(own)) : odd_number());
        return 1;
    }
    atomic_store(&record->tag, odd_number());
    atomic_store(&record->claimed_ns, (int64_t)odd_number());
    atomic_store(&record->published_ns, (int64_t)odd_number());
    atomic_store(&record->producer, random_below(2) ? random_below(6) : (uint32_t)odd_number());
    atomic_store(&own->ring->uses[slot].deliveries, odd_number());
    return 5;
}

static inline uint32_t garble_event(const garbler *own)
{
    rf_header *header = own->ring->header;
    rf_event *event = random_below(2) ? &header->readable : &header->writable;
    atomic_store(&event->wanted, (uint32_t)odd_number());
    if (random_below(4) == 0)
        atomic_store(&event->sequence, (uint32_t)odd_number());
    return 2;
}

static inline uint32_t garble_participant(const garbler *own)
{
    rf_participant *entry =
        &own->ring->participants[random_below(own->ring->geometry.participants)];
    atomic_store(&entry->state, random_below(2) ? random_below(3) : (uint32_t)odd_number());
    atomic_store(&entry->mark.pid, (uint32_t)odd_number());
    atomic_store(random_below(2) ? &entry->mark.pid_namespace : &entry->mark.stack,
                 (uint32_t)odd_number());
    atomic_store(&entry->waits, (uint32_t)odd_number());
    atomic_store(&entry->counters.published, odd_number());
    atomic_store(&entry->producing, random_below(2) ? random_below(3) : odd_number());
    return 4;
}

/* Garble the producer count, the number of expected producers, and the text of a failure. */
static inline uint32_t garble_producers(const garbler *own)
{
    rf_header *header = own->ring->header;
    rf_failure *failure = &header->failure;
    switch (random_below(6)) {
    case 0: atomic_store(&header->finished, odd_number()); break;
    case 1: header->producers = (uint32_t)odd_number(); break;
    case 2: atomic_store(&failure->bytes, (uint32_t)odd_number()); break;
    case 3: memset(failure->text, (int)random_below(256), RF_FAILURE_BYTES); break;
    case 4: atomic_store(&failure->word, odd_number()); break;
    default: /* of a participant that is present or not */
        atomic_store(&failure->word,
                     rf_word((rf_state)random_below(8), random_below(6), random_below(4)) |
                         (random_below(2) ? 0 : RF_KEEP));
    }
    return 1;
}

static inline uint32_t garble_header(const garbler *own)
{
    rf_header *header = own->ring->header;
    uint32_t *geometry = (uint32_t *)&header->geometry;
    switch (random_below(8)) {
    case 0: atomic_store(&header->finished, odd_number()); break;
    case 1: atomic_store(&header->closed, (uint32_t)odd_number()); break;
    case 2: atomic_store(&header->initialized, (uint32_t)odd_number()); break;
    case 3: header->magic ^= odd_number(); break;
    case 4: header->layout_version = (uint32_t)odd_number(); break;
    case 5:
        header->redeliver = (uint32_t)odd_number();
        header->max_deliveries = random_below(4) ? random_below(4) : (uint32_t)odd_number();
        break;
    default: /* the head of the geometry and the first field, or anywhere in it */
        geometry[random_below(random_below(2) ? 128 : sizeof(rf_geometry) / 4)] =
            (uint32_t)odd_number();
    }
    return 1;
}

/* Write a number anywhere from the first byte up to the samples. */
static inline uint32_t garble_anywhere(const garbler *own)
{
    _Atomic uint64_t *tables = (_Atomic uint64_t *)own->ring->mapping;
    atomic_store(&tables[random_word() % (own->tables_bytes / 8)], odd_number());
    return 1;
}

/* Returns how many numbers were written. */
static inline uint32_t garble(const garbler *own)
{
    rf_header *header = own->ring->header;
    uint32_t slot = any_slot(own);
    switch (random_below(16)) {
    case 0:
    case 1:
    case 2: atomic_store(&own->ring->words[slot], plausible_word(own, slot)); return 1;
    case 3: atomic_store(&own->ring->words[slot], odd_number()); return 1;
    case 4: /* a word of another slot, or of an earlier epoch */
        atomic_store(&own->ring->words[slot], word_of(own->ring, any_slot(own)));
        return 1;
    case 5:
    case 6: return garble_record(own);
    case 7: return random_below(4) ? garble_record(own) : make_circle(own);
    case 8: return random_below(4) ? garble_event(own) : flood_words(own);
    case 9: return garble_event(own);
    case 10: atomic_store(&header->claim_cursor, (uint32_t)odd_number()); return 1;
    case 11: atomic_store(&header->take_cursor, (uint32_t)odd_number()); return 1;
    case 12: return random_below(2) ? garble_participant(own) : garble_producers(own);
    case 13: return garble_anywhere(own);
    case 14: return random_below(4) ? 0 : garble_header(own);
    default: restore_header(own); return 0;
    }
}

/* ---- Operations of honest peers ------------------------------------------------------------- */

enum { HELD = 3 };

typedef struct honest_peer {
    rf_ring *ring;
    rf_lease *held[HELD]; /* claims, kept records and batches that live for a while */
    uint64_t sum;         /* a sum of all read bytes, so that the compiler keeps the reads */
    uint64_t granted;     /* calls that got what they asked for */
} honest_peer;

static inline void read_lease(honest_peer *own, rf_lease *lease)
{
    rf_record records[64];
    uint64_t tags[64];
    rf_ring *ring = own->ring;
    uint32_t rows = rf_lease_rows(lease);
    CHECK(rows >= 1 && rows <= 64 && rf_lease_first(lease) < ring->slot_count);
    own->granted++;
    rf_lease_records(lease, records);
    rf_lease_tags(lease, tags);
    for (uint32_t field = 0; field < ring->geometry.fields; field++) {
        const uint8_t *bytes = rf_lease_data(lease, field);
        uint64_t length = rows * ring->geometry.field[field].stride_bytes;
        own->sum += bytes[0] + bytes[length - 1] + bytes[random_word() % length];
    }
    own->sum += tags[0] + records[rows - 1].deliveries;
}

static inline void hold(honest_peer *own, rf_lease *lease)
{
    uint32_t place = random_below(HELD);
    if (own->held[place])
        rf_lease_drop(own->held[place]);
    own->held[place] = lease;
}

static inline void put_any(honest_peer *own)
{
    static const uint8_t sample[4096];
    const void *sources[RF_MAX_FIELDS];
    for (uint32_t field = 0; field < own->ring->geometry.fields; field++)
        sources[field] = sample;
    int64_t deadline = random_below(16) ? 0 : in_ms(random_below(3));
    own->granted += rf_put(own->ring, sources, random_word(), deadline) == RF_OK;
}

static inline void claim_any(honest_peer *own)
{
    rf_lease *lease;
    uint64_t tags[64] = {0};
    uint32_t most = own->ring->slot_count < 64 ? own->ring->slot_count : 64;
    int64_t deadline = random_below(16) ? 0 : in_ms(random_below(3));
    if (rf_claim(own->ring, 1 + random_below(most), deadline, &lease) != RF_OK)
        return;
    read_lease(own, lease);
    for (uint32_t row = 0; row < rf_lease_rows(lease); row++)
        for (uint32_t field = 0; field < own->ring->geometry.fields; field++)
            memset((uint8_t *)rf_lease_data(lease, field) +
                       row * own->ring->geometry.field[field].stride_bytes,
                   1, own->ring->geometry.field[field].sample_bytes);
    if (random_below(4))
        rf_publish(lease, random_below(rf_lease_rows(lease) + 1), tags, random_below(4) == 0);
    if (random_below(4))
        rf_lease_drop(lease);
    else
        hold(own, lease);
}

static inline void take_any(honest_peer *own)
{
    rf_lease *lease;
    uint32_t most = own->ring->slot_count < 64 ? own->ring->slot_count : 64;
    rf_take_request request = {.max_rows = 1 + random_below(most),
                               .deadline_ns = random_below(16) ? 0 : in_ms(random_below(3)),
                               .linger_ns = random_below(16) ? 0 : NS_PER_MS};
    request.min_rows = random_below(4) ? 1 : 1 + random_below(request.max_rows);
    if (rf_take(own->ring, &request, &lease) != RF_OK)
        return;
    read_lease(own, lease);
    if (random_below(8) == 0) {
        rf_export_form form = {.versioned = 1, .copied = (int)random_below(2)};
        void *tensor = rf_lease_export(lease, 0, RF_VIEW_ROWS, &form);
        if (tensor)
            rf_export_delete(tensor, 1);
    }
    if (random_below(4))
        rf_lease_drop(lease);
    else
        hold(own, lease);
}

/* Attach to a segment whose header may be garbled, and close one of the two handles. */
static inline void attach_any(honest_peer *own)
{
    int fd = open_segment(0);
    rf_ring *ring;
    own->sum += rf_segment_version(fd) + (uint64_t)rf_segment_has_owner(fd);
    if (rf_ring_attach(fd, &ring) != RF_OK)
        return;
    own->granted++;
    if (random_below(2)) {
        rf_ring *old = own->ring;
        own->ring = ring;
        ring = old;
        for (int i = 0; i < HELD;
             i++) { /* these leases belong to the old handle and keep it mapped */
            if (own->held[i] && random_below(2)) {
                rf_lease_drop(own->held[i]);
                own->held[i] = NULL;
            }
        }
    }
    close_ring(ring);
}

/* Enter as a producer, put, sometimes fail, and usually leave. */
static inline void produce_any(honest_peer *own)
{
    static const char text[] = "an honest text";
    char said[RF_FAILURE_BYTES + 1];
    rf_block block;
    if (rf_producing_begin(own->ring, (int)random_below(2), &block) == RF_OK) {
        own->granted++;
        put_any(own);
        if (random_below(4) == 0)
            rf_producing_fail(own->ring, block, text, random_below(sizeof text));
        if (random_below(8))
            rf_producing_end(own->ring, block);
    }
    if (rf_ring_has_failed(own->ring)) {
        uint32_t bytes = rf_ring_failure(own->ring, said);
        CHECK(bytes <= RF_FAILURE_BYTES && said[bytes] == 0);
        own->sum += (uint8_t)said[bytes / 2];
    }
    own->sum += rf_ring_open_blocks(own->ring) + rf_ring_producers_entered(own->ring);
}

static inline void die_any(void *argument)
{
    honest_peer *own = argument;
    rf_lease *lease;
    rf_block block;
    rf_producing_begin(own->ring, 0, &block);
    rf_claim(own->ring, 2, 0, &lease);
    rf_take(own->ring, &(rf_take_request){.max_rows = 3, .min_rows = 1}, &lease);
    raise(SIGKILL);
}

static const char *const acts[] = {"put",   "claim",  "take", "recover",
                                   "stats", "attach", "die",  "produce"};

static inline uint32_t choose_act(void)
{
    uint32_t choice = random_below(1024);
    if (choice == 0)
        return 6;
    return choice < 260   ? 0
           : choice < 300 ? 7
           : choice < 550 ? 1
           : choice < 900 ? 2
           : choice < 930 ? 3
           : choice < 970 ? 4
                          : 5;
}

static inline void behave(honest_peer *own, uint32_t act)
{
    rf_stats stats;
    int status;
    switch (act) {
    case 0: put_any(own); break;
    case 1: claim_any(own); break;
    case 2: take_any(own); break;
    case 3: own->sum += rf_recover(own->ring); break;
    case 4: rf_ring_stats(own->ring, &stats); break;
    case 5: attach_any(own); break;
    case 7: produce_any(own); break;
    default: waitpid(spawn(die_any, own), &status, 0);
    }
}

static inline void stop_behaving(honest_peer *own)
{
    for (int i = 0; i < HELD; i++)
        if (own->held[i])
            rf_lease_drop(own->held[i]);
    close_ring(own->ring);
}

#endif
