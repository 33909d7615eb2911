/* Faults besides kills and stops: at random, other code of the process closes or reuses descriptors. */
#ifndef RF_CLOSINGS_H
#define RF_CLOSINGS_H

#include "chance.h"
#include "check.h"

/* Usually does nothing. Whatever is closed, the process must live and keep what it holds. */
static inline void close_something(rf_ring *ring)
{
    if (random_below(32))
        return;
    pid_t child;
    switch (random_below(6)) {
    case 0: close(dup(rf_ring_descriptor(ring))); break;
    case 1: close(open_segment(0)); break;
    case 2: close(rf_ring_descriptor(ring)); break;
    case 3:
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        break;
    case 4: /* the closed number now names another file */
        close(rf_ring_descriptor(ring));
        (void)!open("/dev/null", O_RDWR | O_CLOEXEC);
        break;
    default:                      /* a child that outlives its parent for a while */
        signal(SIGCHLD, SIG_IGN); /* the parent does not wait for this child */
        if ((child = fork()) == 0) {
            nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
            _exit(0);
        }
        CHECK_EQUAL(child == -1 ? errno : 0, 0);
    }
}

#endif
