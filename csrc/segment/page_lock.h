/*
 * Page-locked memory at the end of a handle (page_lock.c).
 */
#ifndef RF_PAGE_LOCK_H
#define RF_PAGE_LOCK_H

#include "segment/handle.h"

/* Unregister what is registered, then unmap what lies behind the first so many bytes. */
void rf_pin_end(rf_ring *ring, size_t kept_bytes);

#endif
