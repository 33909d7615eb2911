/*
 * Copies past the caches. See streaming.h.
 */
#include "ring/streaming.h"

#include <string.h>

/* ThreadSanitizer does not see these stores, and would miss a race over them. */
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
#include <emmintrin.h>
#define HAS_STREAMING_STORES 1
#else
#define HAS_STREAMING_STORES 0
#endif

enum {
    LEAST_BYTES = 16384, /* of a record */
    HOT_BYTES = 2 << 20, /* so much of what a core wrote last is near it, or this many slots: */
    HOT_SLOTS = 4,
    TRY_EVERY = 2048, /* copies, until both ways are tried again, */
    TRIES =
        8, /* this often, because the first copies of a kind find in the caches what the other kind left */
    WEIGHT = 16,       /* of a shorter time, beside a longer one */
    MOST_NS = 10000000 /* a thread that lost its core for so long says nothing of memory */
};

void rf_begin_copies(rf_ring *ring)
{
    const uint64_t no_slot = UINT64_C(1) << 32; /* the first is behind the last */
    ring->copies.least_bytes = LEAST_BYTES;
    rf_store_relaxed(&ring->copies.written, no_slot);
}

/* Is the slot one of those that we wrote last? These are kept as a range of slots. */
static bool is_hot(rf_ring *ring, uint32_t slot)
{
    uint64_t written = rf_load_relaxed(&ring->copies.written);
    uint32_t first = (uint32_t)(written >> 32), last = (uint32_t)written;
    if (slot >= first && slot <= last)
        return true;
    uint32_t most = (uint32_t)(HOT_BYTES / ring->record_bytes);
    most = most < HOT_SLOTS ? HOT_SLOTS : most;
    if (slot != last + 1)
        first = slot; /* the writes go on elsewhere */
    else if (slot - first >= most)
        first = slot + 1 - most;
    rf_store_relaxed(&ring->copies.written, (uint64_t)first << 32 | slot);
    return false;
}

unsigned rf_way_to_copy(rf_ring *ring, uint32_t slot)
{
    if (!HAS_STREAMING_STORES)
        return 0;
    unsigned way = is_hot(ring, slot) ? RF_COPY_HOT : 0;
    _Atomic uint32_t *turns = &ring->copies.turns[way == RF_COPY_HOT];
    uint32_t turn = rf_load_relaxed(turns);
    rf_store_relaxed(turns, turn + 1);
    turn %= TRY_EVERY;
    /* Streaming must be faster by half, because a taker then finds the record in memory and
     * not in a cache. For a record that no near cache has room for, an eighth is enough. */
    uint32_t plain = rf_load_relaxed(&ring->copies.ns_per_mib[way]);
    uint32_t streamed = rf_load_relaxed(&ring->copies.ns_per_mib[way | RF_COPY_STREAMED]);
    uint32_t margin = streamed / (ring->record_bytes > HOT_BYTES ? 8 : 2);
    bool streams = turn < 2 * TRIES ? turn >= TRIES : streamed && streamed + margin < plain;
    return streams ? way | RF_COPY_STREAMED : way;
}

void rf_note_copy(rf_ring *ring, unsigned way, int64_t took_ns)
{
    if (took_ns <= 0 || took_ns > MOST_NS)
        return;
    _Atomic uint32_t *took = &ring->copies.ns_per_mib[way];
    uint32_t now = (uint32_t)(((uint64_t)took_ns << 20) / ring->record_bytes + 1);
    uint32_t before = rf_load_relaxed(took);
    /* A copy that took longer may have had its pages made, or lost its core. */
    rf_store_relaxed(took, before && now > before ? before + (now - before) / WEIGHT : now);
}

void rf_stream(void *to, const void *from, size_t bytes)
{
#if HAS_STREAMING_STORES
    __m128i *line = to;
    const __m128i *source = from;
    for (size_t left = bytes / RF_ALIGNMENT; left > 0; left--, line += 4, source += 4) {
        __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
        __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
        _mm_stream_si128(line, a);
        _mm_stream_si128(line + 1, b);
        _mm_stream_si128(line + 2, c);
        _mm_stream_si128(line + 3, d);
    }
    to = line;
    from = source;
    bytes %= RF_ALIGNMENT;
#endif
    memcpy(to, from, bytes);
}

void rf_end_streaming(void)
{
#if HAS_STREAMING_STORES
    _mm_sfence();
#endif
}
