/*
 * Taking from several rings, the most urgent first. take.c says what a take is.
 *
 * It waits for all of them at once (futex_waitv, Linux 5.16). On an older kernel it sleeps on the first, for a
 * millisecond at a time, and sees the others that late.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ring/lease.h"
#include "ring/reaper.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* on every architecture */
#endif
enum { FUTEX_OF_32_BITS = 2 };
#define OLD_KERNEL_NS INT64_C(1000000)

/* struct futex_waitv of linux/futex.h, which older headers lack. */
typedef struct waited {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
} waited;

/* Sleep until one of the events moves. True: the caller should look again. False: a signal
 * came. */
static bool sleep_on_all(rf_ring *const *rings, const uint32_t *keys, uint32_t count,
                         int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    waited waits[RF_MOST_LEVELS];
    for (uint32_t i = 0; i < count; i++)
        waits[i] = (waited){.value = keys[i],
                            .address = (uint64_t)(uintptr_t)&rings[i]->header->readable.sequence,
                            .flags = FUTEX_OF_32_BITS};
    if (syscall(SYS_futex_waitv, waits, count, 0u, &until, CLOCK_MONOTONIC) != -1)
        return true;
    if (errno == EAGAIN || errno == ETIMEDOUT || errno == EINTR)
        return errno != EINTR;
    /* An older kernel, or a container whose filter does not know the call. */
    int64_t soon = rf_now_ns() + OLD_KERNEL_NS;
    return rf_sleep(&rings[0]->header->readable, keys[0], soon < until_ns ? soon : until_ns);
}

/* Take from one of the rings, and wait for more rows only there. If the ring has ended, do not
 * wait. */
static rf_status take_from(rf_ring *const *rings, uint32_t level, rf_take_request *request,
                           rf_lease **lease)
{
    rf_take_request one = *request;
    if (request->lingers_at != level + 1) {
        one.linger_until_ns = 0;
        one.enough_since_ns = 0;
    }
    one.deadline_ns = one.linger_until_ns ? one.linger_until_ns
                      : one.linger_ns     ? rf_now_ns() + one.linger_ns
                                          : 0;
    rf_status status = rf_take(rings[level], &one, lease);
    /* A slice is over: the wait goes on from here. */
    request->lingers_at = status == RF_AGAIN ? level + 1 : 0;
    request->linger_until_ns = one.linger_until_ns;
    request->enough_since_ns = one.enough_since_ns;
    return status;
}

static bool is_over(rf_status status)
{
    return status == RF_FINISHED || status == RF_PRODUCER_FAILED || status == RF_CLOSED;
}

/* One look at each, in their order. RF_EMPTY: nothing is ready, and something may still come.
 * When all have ended, a failed producer of any ring is reported. */
static rf_status look_at_each(rf_ring *const *rings, uint32_t count, rf_take_request *request,
                              rf_lease **lease)
{
    rf_status over = RF_FINISHED;
    bool may_come = false;
    for (uint32_t level = 0; level < count; level++) {
        bool open = rf_still_open(rings[level]) == RF_OK;
        if (open && rf_ring_ready(rings[level]) < request->min_rows) {
            may_come = true;
            continue;
        }
        rf_status status = take_from(rings, level, request, lease);
        if (status == RF_EMPTY)
            may_come = true;
        else if (!is_over(status))
            return status;
        else if (over != RF_PRODUCER_FAILED)
            over = status;
    }
    return may_come ? RF_EMPTY : over;
}

rf_status rf_take_first(rf_ring *const *rings, uint32_t count, rf_take_request *request,
                        rf_lease **lease)
{
    *lease = NULL;
    if (count == 0 || count > RF_MOST_LEVELS)
        return RF_INVALID;
    int64_t slice = rf_now_ns() + RF_SLICE_NS;
    int64_t until = request->deadline_ns < slice ? request->deadline_ns : slice;
    uint32_t keys[RF_MOST_LEVELS];
    rf_status status;
    while ((status = look_at_each(rings, count, request, lease)) == RF_EMPTY) {
        int64_t now = rf_now_ns();
        for (uint32_t i = 0; i < count; i++)
            rf_reap_in_turn(rings[i], now);
        if (now >= until)
            return now >= request->deadline_ns ? RF_EMPTY : RF_AGAIN;
        for (uint32_t i = 0; i < count; i++)
            keys[i] = rf_prepare_wait(&rings[i]->header->readable, request->min_rows);
        if ((status = look_at_each(rings, count, request, lease)) != RF_EMPTY)
            break;
        for (uint32_t i = 0; i < count; i++)
            rf_leave_no_room_unused(rings[i]);
        if (!sleep_on_all(rings, keys, count, until))
            return RF_AGAIN;
    }
    return status;
}
