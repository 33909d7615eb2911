/* Random numbers for the tests. Each thread has its own generator, which repeats its numbers from run to run. */
#ifndef RF_CHANCE_H
#define RF_CHANCE_H

#include <stdint.h>

static _Thread_local uint64_t random_state = 88172645463325252u;

static inline void seed(uint64_t salt)
{
    random_state = (salt + 1) * 0x9e3779b97f4a7c15u ^ 88172645463325252u;
}

static inline uint64_t random_word(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static inline uint32_t random_below(uint32_t limit)
{
    return (uint32_t)(random_word() >> 33) % limit;
}

/* Numbers that break code most often: small, large, all bits set, one bit set. */
static inline uint64_t odd_number(void)
{
    uint64_t word = random_word();
    switch (random_below(6)) {
    case 0: return word % 8;
    case 1: return UINT64_MAX - word % 8;
    case 2: return UINT64_C(1) << word % 64;
    case 3: return (UINT64_C(1) << word % 64) - 1;
    case 4: return word >> word % 64;
    default: return word;
    }
}

#endif
