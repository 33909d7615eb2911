/* Records that name their producer and their number, and carry a checksum that shows a torn record. */
#ifndef RF_RECORDS_H
#define RF_RECORDS_H

#include "check.h"

#include "chance.h"

enum { PAYLOAD_WORDS = 16 };

typedef struct payload {
    uint64_t producer, number, filling[PAYLOAD_WORDS - 3], checksum;
} payload;

static inline uint64_t checksum_of(const payload *record)
{
    uint64_t sum = record->producer * 31 + record->number;
    for (size_t i = 0; i < COUNT(record->filling); i++)
        sum = (sum << 7 | sum >> 57) ^ record->filling[i];
    return sum;
}

static inline void fill(payload *record, uint64_t producer, uint64_t number)
{
    record->producer = producer;
    record->number = number;
    for (size_t i = 0; i < COUNT(record->filling); i++)
        record->filling[i] = number * (i + 1) ^ producer << 56;
    record->checksum = checksum_of(record);
}

#endif
