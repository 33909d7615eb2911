/*
 * Page-locked memory: the payload registered with a GPU's driver, which then reads it by DMA.
 *
 * It may not know CUDA: the caller gives the driver as a few functions in the shape of CUDA's API.
 *
 * A region is mapped twice in a row, and a driver may refuse to register the same pages twice. The driver is asked
 * for both mappings at once, else for each by itself, else for the first alone. CUDA fails a copy from memory that
 * is registered only in part (CUDA_ERROR_INVALID_VALUE). So a run over the ring's end must lie in one registration,
 * or must not exist. If the driver does not copy from one mapping into the next, claims and takes of this handle end
 * at the ring's end (rf_rows_from).
 *
 * The driver keeps the pages that it has registered, regardless of later mappings. So memory is unregistered before
 * it is unmapped, and addresses that the driver refused to unregister are never used again. All of this is private
 * to the process: in a forked child nothing is registered.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "segment/page_lock.h"
#include "segment/participants.h"

enum { PROBE_BYTES = 128 };

/* Held while the driver works, which may take seconds; never on the path of a record. */
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

/* Register as much of a region as the driver accepts; `refusal` says why not more. */
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

/* The driver's context must be current. Returns 0 or one refusal; the other regions are
 * unregistered nevertheless. */
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

/* The driver's context must be current. */
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
    /* In a forked child, the inherited contents are its parent's. */
    *pin = (rf_pin){
        .driver = *driver, .generation = rf_load_relaxed(&rf_fork_generation), .stuck = pin->stuck};
    int refusal = driver->push(driver->context);
    if (refusal)
        return (rf_pin_report){.way = RF_PIN_NONE, .refusal = refusal};
    /* Until all of it is known to be registered: a batch taken meanwhile may be copied later. */
    rf_store_relaxed(&ring->runs_end, true);
    rf_pin_report report = register_regions(ring, flags);
    driver->pop(&popped);
    rf_store_relaxed(&ring->runs_end, ring->is_padded || report.way == RF_PIN_FIRST_HALF);
    return report;
}

/* Also if the context cannot be made current: the driver decides. */
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
    /* A program may still unpin the handle of a ring that was closed. */
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
