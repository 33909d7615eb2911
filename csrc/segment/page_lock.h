/*
 * Page-locked memory at the end of a handle (page_lock.c).
 */
#ifndef RF_PAGE_LOCK_H
#define RF_PAGE_LOCK_H

#include "segment/handle.h"

/* Unregister what is registered, then unmap the mapping behind its first `kept_bytes` bytes. */
void rf_pin_end(rf_ring *ring, size_t kept_bytes);

#endif
