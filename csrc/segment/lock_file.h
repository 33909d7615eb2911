/*
 * An open file description of our own on a file that somebody gave us a descriptor of, for locks.
 *
 * It may not know what the locks mean. Other code of the process may close any number, or reuse it: a number is ours
 * only while it shows the same device and inode.
 */
#ifndef RF_OWN_FILE_H
#define RF_OWN_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "segment/atomics.h"

/* One that is open for a while, with the descriptor that works on it. No forked child keeps a copy. */
typedef struct rf_own_file {
    int fd;
    dev_t device;
    ino_t inode;
    struct rf_own_file *next;
} rf_own_file;

/* One that is kept, with its locks and without a descriptor: by a page that is mapped, and that a forked child does not get. */
typedef struct rf_lock_mapping {
    _Atomic(void *) page; /* NULL: none. Threads that close and use a handle at a time see it go */
} rf_lock_mapping;

/* Is `fd` a descriptor of that very file? */
bool rf_is_file(int fd, dev_t device, ino_t inode);
/* A new description of that file: by way of `fd`, where that is still it; else by its name in /dev/shm, or by the stake.
 * -1 and errno. */
int rf_open_anew(int fd, dev_t device, ino_t inode, const rf_lock_mapping *stake);

/* The same for locks. Until the close `own` stays where it is. False, and errno. */
bool rf_own_file_open(rf_own_file *own, int fd, dev_t device, ino_t inode,
                      const rf_lock_mapping *stake);
/* The same of the file at that path, if it is that one. */
bool rf_own_file_open_at(rf_own_file *own, const char *path, dev_t device, ino_t inode);
/* Ends its locks unless they were made a stake; errno stays. */
void rf_own_file_close(rf_own_file *own);

/* What `own` has locked stays so until rf_lock_mapping_end, exec or the end of the process. False, and errno. */
bool rf_lock_mapping_make(rf_lock_mapping *stake, const rf_own_file *own);
/* Not in a forked child: there the page may be somebody else's. */
void rf_lock_mapping_end(rf_lock_mapping *stake);

#endif
