/*
 * Page-locked memory: the payload registered with a GPU's driver, which then reads it by DMA.
 *
 * It may not know CUDA: the driver is a few functions in the shape of its API, given by who pins.
 * (The pin bit of a slot's word is another matter: it keeps a slot, this keeps pages.)
 *
 * A region is mapped twice in a row, and a driver may not like to see the same pages twice. It is
 * asked for both mappings at once, else for each by itself, else for the first alone. CUDA fails a
 * copy from memory that is registered only in part (CUDA_ERROR_INVALID_VALUE), so a run over the
 * ring's end must lie in what is registered as a whole, or must not be: where the driver does not copy
 * from one mapping into the next, claims and takes of this handle end at the ring's end (rf_rows_from).
 *
 * The driver keeps the pages of what it has registered, whatever is mapped there later. So memory is
 * unregistered before it is unmapped, and addresses that the driver would not let go are never used
 * again. All of this is private to the process: what a forked child inherits is not registered.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "segment/page_lock.h"
#include "segment/participants.h"

enum { PROBE_BYTES = 128 };

/* Held while the driver is asked, which may take seconds; never on the way of a record. */
static pthread_mutex_t pin_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t watch_forks = PTHREAD_ONCE_INIT;

static void in_forked_child(void)
{
    pin_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static void install_fork_watch(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

static bool is_pinned_here(const rf_ring *ring)
{
    return ring->pin.count && ring->pin.generation == rf_load_relaxed(&rf_fork_generation);
}

/* ---- One region ----------------------------------------------------------------------------- */

/* May a copy pass from the end of one registration into the next? 0, or the refusal. */
static int copy_across(const rf_pin_driver *driver, const uint8_t *border)
{
    uint64_t device_address;
    int refusal = driver->allocate(&device_address, PROBE_BYTES);
    if (refusal)
        return refusal;
    refusal = driver->copy(device_address, border - PROBE_BYTES / 2, PROBE_BYTES);
    driver->release(device_address);
    return refusal;
}

/* 0, or the refusal. */
static int unregister(rf_pin *pin, uint8_t *address)
{
    int refusal = pin->driver.host_unregister(address);
    pin->stuck |= refusal != 0;
    return refusal;
}

/* Register a region as far as the driver will have it; `refusal` says why not further. */
static rf_pin_way register_region(rf_pin *pin, unsigned flags, uint8_t *region, size_t bytes,
                                  int *refusal)
{
    const rf_pin_driver *driver = &pin->driver;
    if (!driver->host_register(region, 2 * bytes, flags)) {
        *refusal = 0;
        return RF_PIN_WHOLE;
    }
    if ((*refusal = driver->host_register(region, bytes, flags)))
        return RF_PIN_NONE;
    if ((*refusal = driver->host_register(region + bytes, bytes, flags)))
        return RF_PIN_FIRST_HALF;
    if (!(*refusal = copy_across(driver, region + bytes)))
        return RF_PIN_HALVES;
    unregister(pin, region + bytes);
    return RF_PIN_FIRST_HALF;
}

static int unregister_region(rf_pin *pin, rf_pin_way way, uint8_t *region, size_t bytes)
{
    int refusal = way == RF_PIN_HALVES ? unregister(pin, region + bytes) : 0;
    int first = way != RF_PIN_NONE ? unregister(pin, region) : 0;
    return refusal ? refusal : first;
}

/* ---- All of them ---------------------------------------------------------------------------- */

/* With the driver's context current. 0, or a refusal; the others go nevertheless. */
static int unregister_regions(rf_ring *ring)
{
    int refusal = 0;
    for (uint32_t i = 0; i < ring->geometry.fields; i++) {
        int refused = unregister_region(&ring->pin, ring->pin.way[i], ring->region[i],
                                        ring->geometry.field[i].region_bytes);
        ring->pin.way[i] = RF_PIN_NONE;
        refusal = refused ? refused : refusal;
    }
    return refusal;
}

/* With the driver's context current. */
static rf_pin_report register_regions(rf_ring *ring, unsigned flags)
{
    rf_pin_report report = {.way = RF_PIN_WHOLE};
    for (uint32_t i = 0; i < ring->geometry.fields; i++) {
        int refusal;
        rf_pin_way way = register_region(&ring->pin, flags, ring->region[i],
                                         ring->geometry.field[i].region_bytes, &refusal);
        ring->pin.way[i] = way;
        if (way < report.way)
            report = (rf_pin_report){.way = way, .refusal = refusal};
        if (way == RF_PIN_NONE) {
            unregister_regions(ring);
            break;
        }
    }
    return report;
}

static rf_pin_report pin_ring(rf_ring *ring, const rf_pin_driver *driver, unsigned flags)
{
    rf_pin *pin = &ring->pin;
    void *popped;
    /* What a forked child inherited here is its parent's. */
    *pin = (rf_pin){
        .driver = *driver, .generation = rf_load_relaxed(&rf_fork_generation), .stuck = pin->stuck};
    int refusal = driver->push(driver->context);
    if (refusal)
        return (rf_pin_report){.way = RF_PIN_NONE, .refusal = refusal};
    /* Until all of it is known to be registered; what is taken meanwhile may be copied later. */
    rf_store_relaxed(&ring->runs_end, true);
    rf_pin_report report = register_regions(ring, flags);
    driver->pop(&popped);
    rf_store_relaxed(&ring->runs_end, ring->is_padded || report.way == RF_PIN_FIRST_HALF);
    return report;
}

/* Also where the context can not be made current: the driver decides. */
static int unpin_ring(rf_ring *ring)
{
    const rf_pin_driver *driver = &ring->pin.driver;
    void *popped;
    int unpushed = driver->push(driver->context);
    int refusal = unregister_regions(ring);
    if (!unpushed)
        driver->pop(&popped);
    rf_store_relaxed(&ring->runs_end, ring->is_padded);
    return refusal;
}

/* ---- What others call ----------------------------------------------------------------------- */

rf_pin_report rf_ring_pin(rf_ring *ring, const rf_pin_driver *driver, unsigned flags)
{
    pthread_once(&watch_forks, install_fork_watch);
    pthread_mutex_lock(&pin_mutex);
    if (!is_pinned_here(ring))
        ring->pin_report = pin_ring(ring, driver, flags);
    if (ring->pin_report.way != RF_PIN_NONE)
        ring->pin.count++;
    rf_pin_report report = ring->pin_report;
    pthread_mutex_unlock(&pin_mutex);
    return report;
}

int rf_ring_unpin(rf_ring *ring)
{
    int refusal = 0;
    pthread_mutex_lock(&pin_mutex);
    if (is_pinned_here(ring) && --ring->pin.count == 0)
        refusal = unpin_ring(ring);
    pthread_mutex_unlock(&pin_mutex);
    return refusal;
}

int rf_ring_is_pinned(rf_ring *ring)
{
    pthread_mutex_lock(&pin_mutex);
    bool pinned = is_pinned_here(ring);
    pthread_mutex_unlock(&pin_mutex);
    return pinned;
}

void rf_pin_end(rf_ring *ring, size_t kept_bytes)
{
    /* The handle of a ring that was closed may still be asked to unpin it. */
    pthread_once(&watch_forks, install_fork_watch);
    pthread_mutex_lock(&pin_mutex);
    if (is_pinned_here(ring))
        unpin_ring(ring);
    ring->pin.count = 0;
    pthread_mutex_unlock(&pin_mutex);
    uint8_t *start = ring->mapping + kept_bytes;
    size_t bytes = ring->mapped_bytes - kept_bytes;
    if (ring->pin.stuck)
        mmap(start, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0);
    else
        munmap(start, bytes);
}
