/*
 * A fake NVIDIA driver, because the real one needs a GPU: a libcuda.so.1 with the few functions that pinning and its
 * tests call. It enforces the rules that matter here (a current context, no range registered twice, no use after a
 * fork), logs each call in the file FAKE_CUDA_LOG, and returns errors as other variables demand:
 *
 *     FAKE_CUDA_INIT=100          the result of cuInit
 *     FAKE_CUDA_DEVICES=0         the number of GPUs
 *     FAKE_CUDA_RETAIN=2          the result of cuDevicePrimaryCtxRetain
 *     FAKE_CUDA_REGISTER=1,0,1    the results of cuMemHostRegister, one after the other, then 0
 *     FAKE_CUDA_UNREGISTER=800    the result of cuMemHostUnregister
 *     FAKE_CUDA_COPY=1            the result of cuMemcpyHtoD
 *     FAKE_CUDA_WITHOUT=cuMemFree a function that this driver lacks
 *
 * It shows RingFeed's requests, not that a real driver grants them; tests/gpu shows that.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    NOT_INITIALIZED = 3,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713,
    MOST_RANGES = 64,
};

typedef struct range {
    char *start;
    size_t bytes;
} range;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static range ranges[MOST_RANGES];
static pid_t started_in;
static int the_context, registers;
static __thread void *current;

static void note(const char *format, ...)
{
    if (!getenv("FAKE_CUDA_LOG"))
        return;
    char line[200];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    int log = open(getenv("FAKE_CUDA_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (write(log, line, (size_t)length) != length)
        abort();
    close(log);
}

static int answer_of(const char *variable, int usual)
{
    const char *said = getenv(variable);
    return said ? atoi(said) : usual;
}

/* The error of every function that needs a driver, or a context. */
static int objection(void)
{
    if (started_in != getpid())
        return NOT_INITIALIZED;
    return current ? SUCCESS : INVALID_CONTEXT;
}

int cuInit(unsigned flags)
{
    (void)flags;
    int answer = answer_of("FAKE_CUDA_INIT", SUCCESS);
    if (answer)
        return answer;
    if (started_in && started_in != getpid())
        return NOT_INITIALIZED;
    started_in = getpid();
    return SUCCESS;
}

int cuDriverGetVersion(int *version)
{
    *version = 13000;
    return SUCCESS;
}

int cuDeviceGetCount(int *count)
{
    *count = answer_of("FAKE_CUDA_DEVICES", 1);
    return SUCCESS;
}

int cuDeviceGet(int *device, int number)
{
    *device = number;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    note("retain %d\n", device);
    *context = &the_context;
    return answer_of("FAKE_CUDA_RETAIN", SUCCESS);
}

int cuCtxPushCurrent(void *context)
{
    if (context != &the_context || current)
        abort();
    current = context;
    return SUCCESS;
}

int cuCtxPopCurrent(void **context)
{
    if (!current)
        abort();
    *context = current;
    current = NULL;
    return SUCCESS;
}

static int next_register_answer(void)
{
    const char *said = getenv("FAKE_CUDA_REGISTER");
    for (int skip = registers++; said && skip > 0; skip--) {
        said = strchr(said, ',');
        said = said ? said + 1 : NULL;
    }
    return said ? atoi(said) : SUCCESS;
}

static int keep(char *start, size_t bytes)
{
    range *empty = NULL;
    for (range *each = ranges; each < ranges + MOST_RANGES; each++) {
        if (!each->bytes)
            empty = each;
        else if (start < each->start + each->bytes && each->start < start + bytes)
            return ALREADY_REGISTERED;
    }
    *empty = (range){start, bytes};
    return SUCCESS;
}

int cuMemHostRegister(void *address, size_t bytes, unsigned flags)
{
    int answer = objection();
    pthread_mutex_lock(&mutex);
    if (!answer)
        answer = next_register_answer();
    if (!answer)
        answer = keep(address, bytes);
    pthread_mutex_unlock(&mutex);
    note("register %zu %zu %u -> %d\n", (size_t)address, bytes, flags, answer);
    return answer;
}

int cuMemHostUnregister(void *address)
{
    int answer = objection();
    volatile char *mapped = address;
    (void)*mapped; /* faults if the memory is already unmapped */
    if (!answer)
        answer = answer_of("FAKE_CUDA_UNREGISTER", SUCCESS);
    pthread_mutex_lock(&mutex);
    range *found = NULL;
    for (range *each = ranges; each < ranges + MOST_RANGES; each++)
        if (each->bytes && each->start == address)
            found = each;
    if (!answer && !found)
        answer = NOT_REGISTERED;
    if (!answer)
        found->bytes = 0;
    pthread_mutex_unlock(&mutex);
    note("unregister %zu %d -> %d\n", (size_t)address, gettid() == getpid(), answer);
    return answer;
}

/* Device memory is host memory here. */
int cuMemAlloc(uint64_t *address, size_t bytes)
{
    int answer = objection();
    if (!answer)
        *address = (uint64_t)malloc(bytes);
    return answer;
}

int cuMemFree(uint64_t address)
{
    free((void *)address);
    return objection();
}

int cuMemcpyHtoD(uint64_t target, const void *source, size_t bytes)
{
    int answer = answer_of("FAKE_CUDA_COPY", objection());
    if (!answer)
        memcpy((void *)target, source, bytes);
    note("copy %zu %zu -> %d\n", (size_t)source, bytes, answer);
    return answer;
}

int cuMemcpyDtoH(void *target, uint64_t source, size_t bytes)
{
    memcpy(target, (void *)source, bytes);
    return objection();
}

int cuMemHostGetFlags(unsigned *flags, const char *address)
{
    int answer = objection();
    *flags = 0;
    for (range *each = ranges; !answer && each < ranges + MOST_RANGES; each++)
        if (address >= each->start && address < each->start + each->bytes)
            return SUCCESS;
    return answer ? answer : NOT_REGISTERED;
}

int cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *);

int cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

#define FUNCTION(name) {#name, (void *)name}

int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                        int *status)
{
    static const struct {
        const char *name;
        void *function;
    } all[] = {
        FUNCTION(cuInit),
        FUNCTION(cuDriverGetVersion),
        FUNCTION(cuDeviceGetCount),
        FUNCTION(cuDeviceGet),
        FUNCTION(cuDevicePrimaryCtxRetain),
        FUNCTION(cuCtxPushCurrent),
        FUNCTION(cuCtxPopCurrent),
        FUNCTION(cuMemHostRegister),
        FUNCTION(cuMemHostUnregister),
        FUNCTION(cuMemAlloc),
        FUNCTION(cuMemFree),
        FUNCTION(cuMemcpyHtoD),
        FUNCTION(cuMemcpyDtoH),
        FUNCTION(cuMemHostGetFlags),
        {"cuGetProcAddress", (void *)cuGetProcAddress_v2}, /* its signature since 12.0 */
    };
    const char *missing = getenv("FAKE_CUDA_WITHOUT");
    (void)version, (void)flags;
    *function = NULL;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i].name, symbol) == 0 && !(missing && strcmp(missing, symbol) == 0))
            *function = all[i].function;
    if (status)
        *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
