/*
 * Engines as a pool knows them: which of its participants serve, between which rings, with which model.
 *
 * It may not know cells, or what a model is.
 */
#define _GNU_SOURCE
#include <string.h>

#include "replies/cell.h"

static char *name_at(rf_ring *pool, uint32_t from)
{
    return pool->header->engine_names[from % RF_ENGINE_NAMES];
}

void rf_pool_serve_as(rf_ring *pool, const rf_service *service)
{
    if (rf_enter(pool) != RF_OK)
        return;
    rf_participant *self = &pool->participants[rf_self(pool) - 1];
    if (service == NULL) {
        bool served = rf_state_serves(rf_load_relaxed(&self->state));
        rf_store_relaxed(&self->state, (uint32_t)RF_PRESENT);
        if (served) /* clients that sleep for long may have no engine left to wait for */
            rf_wake_for_departure(pool);
        return;
    }
    uint32_t from = service->from & RF_FROM_FIRST, bytes = service->name_bytes;
    if (bytes) {
        char *name = name_at(pool, from);
        memset(name, 0, RF_ENGINE_NAME_BYTES);
        memcpy(name, service->name, bytes < RF_ENGINE_NAME_BYTES ? bytes : RF_ENGINE_NAME_BYTES);
    }
    rf_store_relaxed(&self->onward, service->onward & RF_FROM_FIRST);
    rf_store_relaxed(&self->model, service->model);
    /* R20 -> A20 (engine_from): a reader that sees this engine also sees its model and its next ring. */
    rf_store_release(&self->state, from << RF_STATE_BITS | (uint32_t)RF_SERVING);
    /* F9 with F9: of two engines that begin at once, at least one sees the other (rf_pool_has_other_model). */
    rf_fence_full();
}

void rf_pool_serve(rf_ring *pool, uint32_t serves)
{
    rf_service all_stages = {.from = RF_FROM_FIRST};
    rf_pool_serve_as(pool, serves ? &all_stages : NULL);
}

/* The ring that an engine takes from. 0: the participant is no engine, or it is dead, which sets `dead`. */
static uint32_t engine_from(rf_ring *pool, uint32_t owner, bool *dead)
{
    uint32_t state = rf_load_acquire(&pool->participants[owner - 1].state); /* A20 <- R20 */
    if ((state & ((1u << RF_STATE_BITS) - 1)) != RF_SERVING)
        return 0;
    if (rf_participant_lives(pool, owner))
        return state >> RF_STATE_BITS;
    *dead = true;
    return 0;
}

/* Living engines that take from the same ring and hand on to the same ring. */
typedef struct route {
    uint32_t from, onward, engines;
} route;
enum { MAX_ROUTES = 64 };

/* Find the routes of the living engines. Returns the number of living engines. */
static uint32_t find_routes(rf_ring *pool, route routes[MAX_ROUTES], uint32_t *count)
{
    uint32_t all = 0;
    bool dead = false;
    *count = 0;
    for (uint32_t owner = 1; owner <= pool->geometry.participants; owner++) {
        uint32_t from = engine_from(pool, owner, &dead), place = 0;
        if (from == 0)
            continue;
        all++;
        uint32_t onward = rf_load_relaxed(&pool->participants[owner - 1].onward);
        while (place < *count && (routes[place].from != from || routes[place].onward != onward))
            place++;
        if (place == *count && *count < MAX_ROUTES)
            routes[(*count)++] = (route){.from = from, .onward = onward};
        if (place < *count)
            routes[place].engines++;
    }
    if (dead)
        rf_recover(pool);
    return all;
}

static uint32_t widest_from(const route *routes, const uint32_t *width, uint32_t count,
                            uint32_t from)
{
    uint32_t best = 0;
    for (uint32_t place = 0; place < count; place++)
        if (routes[place].from == from && width[place] > best)
            best = width[place];
    return best;
}

/* The number of engines at the bottleneck of the widest path from the pool's ring to an answer. The table lies in shared
 * memory, and a hostile peer may write circles into it. So widths grow backwards from the answers, in at most one
 * round for each route. */
static uint32_t widest_route(const route *routes, uint32_t count)
{
    uint32_t width[MAX_ROUTES] = {0};
    bool changed = true;
    for (uint32_t round = 0; changed && round < count; round++) {
        changed = false;
        for (uint32_t place = 0; place < count; place++) {
            uint32_t behind = routes[place].onward
                                  ? widest_from(routes, width, count, routes[place].onward)
                                  : routes[place].engines;
            uint32_t here = behind < routes[place].engines ? behind : routes[place].engines;
            changed = changed || here != width[place];
            width[place] = here;
        }
    }
    return widest_from(routes, width, count, RF_FROM_FIRST);
}

uint32_t rf_pool_engines(rf_ring *pool)
{
    route routes[MAX_ROUTES];
    uint32_t count;
    find_routes(pool, routes, &count);
    return widest_route(routes, count);
}

uint32_t rf_pool_all_engines(rf_ring *pool)
{
    route routes[MAX_ROUTES];
    uint32_t count;
    return find_routes(pool, routes, &count);
}

uint32_t rf_pool_peers(rf_ring *pool, uint32_t from)
{
    bool dead = false;
    uint32_t peers = 0, self = rf_enter(pool) == RF_OK ? rf_self(pool) : 0;
    for (uint32_t owner = 1; owner <= pool->geometry.participants; owner++)
        peers += owner != self && engine_from(pool, owner, &dead) == from;
    return peers;
}

int rf_pool_has_other_model(rf_ring *pool, const rf_service *service, uint32_t *pid)
{
    bool dead = false;
    uint32_t self = rf_enter(pool) == RF_OK ? rf_self(pool) : 0;
    for (uint32_t owner = 1; owner <= pool->geometry.participants; owner++) {
        if (owner == self || engine_from(pool, owner, &dead) != service->from)
            continue;
        uint64_t model = rf_load_relaxed(&pool->participants[owner - 1].model);
        if (model == 0 || model == service->model)
            continue;
        *pid = rf_load_relaxed(&pool->participants[owner - 1].mark.pid);
        return 1;
    }
    return 0;
}

uint32_t rf_pool_name(rf_ring *pool, uint32_t from, char name[RF_NAME_ROOM])
{
    memcpy(name, name_at(pool, from & RF_FROM_FIRST), RF_NAME_ROOM);
    return (uint32_t)strnlen(name, RF_NAME_ROOM);
}
