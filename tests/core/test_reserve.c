/* Reserving memory while signals arrive. A posix_fallocate of this program plays the kernel. */
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>

static _Atomic uint32_t calls, alarms;
static _Atomic int64_t largest;

/* As older Linux kernels behave: a signal ends the call and undoes the part reserved so far. */
int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    struct timespec a_while = {.tv_nsec = 3 * NS_PER_MS};
    atomic_fetch_add(&calls, 1);
    if (bytes > atomic_load(&largest))
        atomic_store(&largest, bytes);
    if (nanosleep(&a_while, NULL) == -1 && errno == EINTR)
        return EINTR;
    return fallocate(fd, 0, offset, bytes) == -1 ? errno : 0;
}

static void on_alarm(int number)
{
    (void)number;
    atomic_fetch_add(&alarms, 1);
}

static void set_timer(int microseconds)
{
    struct itimerval every = {.it_interval.tv_usec = microseconds,
                              .it_value.tv_usec = microseconds};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
}

static void test_a_signal_every_millisecond_does_not_prevent_creation(void)
{
    struct sigaction action = {.sa_handler = on_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    set_timer(1000);
    rf_options options = options_for(100);
    rf_ring *ring = create_ring_as(&options, 1 << 20);
    set_timer(0);
    CHECK(atomic_load(&calls) >= 3); /* the memory is reserved in parts */
    CHECK(atomic_load(&largest) <= 64 << 20);
    CHECK(atomic_load(&alarms) >= 3); /* signals are delivered between the parts */
    sigset_t blocked;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &blocked) == 0);
    CHECK(!sigismember(&blocked, SIGALRM) && !sigismember(&blocked, SIGINT));
    struct stat status;
    CHECK(fstat(ring->fd, &status) == 0);
    CHECK((uint64_t)status.st_blocks * 512 >= ring->geometry.segment_bytes);
    close_ring(ring);
}

static const test tests[] = {
    {"a signal every millisecond does not prevent the creation of a ring",
     test_a_signal_every_millisecond_does_not_prevent_creation},
};

MAIN(tests)
