/*
 * An open file description of our own for locks, on a file that a caller gave a descriptor of.
 *
 * It may not know what the locks mean. Other code of the process may close any descriptor or reuse its number. So a
 * descriptor is ours only while it shows the same device and inode.
 */
#ifndef RF_LOCK_FILE_H
#define RF_LOCK_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "segment/atomics.h"

/* A description that is open for a while, with its descriptor. No forked child keeps a copy. */
typedef struct rf_own_file {
    int fd;
    dev_t device;
    ino_t inode;
    struct rf_own_file *next;
} rf_own_file;

/* A description that is kept with its locks and without a descriptor, by one mapped page. A
 * forked child does not get the page. */
typedef struct rf_lock_mapping {
    /* NULL: none. Atomic, because one thread may close a handle while another uses it. */
    _Atomic(void *) page;
} rf_lock_mapping;

/* Is `fd` a descriptor of that very file? */
bool rf_is_file(int fd, dev_t device, ino_t inode);
/* Open a new description of that file: through `fd` if it still is that file, else by its name
 * in /dev/shm, or through the mapped page. -1 and errno on failure. */
int rf_open_anew(int fd, dev_t device, ino_t inode, const rf_lock_mapping *mapping);

/* The same, for locks. `own` must stay at its address until the close. False, and errno. */
bool rf_own_file_open(rf_own_file *own, int fd, dev_t device, ino_t inode,
                      const rf_lock_mapping *mapping);
/* The same, for the file at that path if it is that file. */
bool rf_own_file_open_at(rf_own_file *own, const char *path, dev_t device, ino_t inode);
/* Ends its locks, unless a mapping keeps them; errno is unchanged. */
void rf_own_file_close(rf_own_file *own);

/* Keep the locks of `own` until rf_lock_mapping_end, exec or the end of the process. False,
 * and errno. */
bool rf_lock_mapping_make(rf_lock_mapping *mapping, const rf_own_file *own);
/* Do not call it in a forked child: there the page may belong to other code. */
void rf_lock_mapping_end(rf_lock_mapping *mapping);

#endif
