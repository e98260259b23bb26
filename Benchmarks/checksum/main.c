// SPDX-License-Identifier: Apache-2.0
//
// How fast one core computes XXH3-64 and copies memory, hot (256 KiB) and cold (4 MiB values from
// an area larger than the last cache). The three are alternated within a round; prints one JSON row
// per measurement and round.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "checksum.h"

enum { ROUND_COUNT_DEFAULT = 5 };

#define AREA_BYTE_COUNT ((size_t)256 << 20)
#define MEASURED_BYTE_COUNT ((uint64_t)2 << 30)

static volatile uint64_t sink;

static double checksum_gigabytes_per_second(const uint8_t *area, size_t value_byte_count,
                                            size_t area_byte_count) {
    const uint64_t start = clock_nanoseconds();
    uint64_t done = 0, sum = 0;
    while (done < MEASURED_BYTE_COUNT) {
        sum += checksum_xxh3(area + done % area_byte_count, value_byte_count);
        done += value_byte_count;
    }
    sink = sum;
    return (double)done / (double)(clock_nanoseconds() - start);
}

static double copy_gigabytes_per_second(uint8_t *destination, const uint8_t *area,
                                        size_t value_byte_count, size_t area_byte_count) {
    const uint64_t start = clock_nanoseconds();
    uint64_t done = 0;
    while (done < MEASURED_BYTE_COUNT) {
        memcpy(destination, area + done % area_byte_count, value_byte_count);
        __asm__ volatile("" : : "r"(destination) : "memory");
        done += value_byte_count;
    }
    return (double)done / (double)(clock_nanoseconds() - start);
}

// A copy that is checksummed afterwards, piece by piece while the piece is still in the cache.
static double copy_and_checksum_gigabytes_per_second(uint8_t *destination, const uint8_t *area,
                                                     size_t value_byte_count,
                                                     size_t area_byte_count) {
    const size_t piece_byte_count = (size_t)64 << 10;
    const uint64_t start = clock_nanoseconds();
    uint64_t done = 0, sum = 0;
    while (done < MEASURED_BYTE_COUNT) {
        const uint8_t *source = area + done % area_byte_count;
        for (size_t offset = 0; offset < value_byte_count; offset += piece_byte_count) {
            memcpy(destination + offset, source + offset, piece_byte_count);
            sum += checksum_xxh3(destination + offset, piece_byte_count);
        }
        done += value_byte_count;
    }
    sink = sum;
    return (double)done / (double)(clock_nanoseconds() - start);
}

static void print_row(const char *what, const char *where, size_t value_byte_count, double speed) {
    printf("{\"operation\": \"%s\", \"buffer\": \"%s\", \"value_bytes\": %zu, "
           "\"gigabytes_per_second\": %.2f}\n",
           what, where, value_byte_count, speed);
    fflush(stdout);
}

int main(int argument_count, char **arguments) {
    const int round_count = argument_count > 1 ? atoi(arguments[1]) : ROUND_COUNT_DEFAULT;
    uint8_t *area = memory_allocate(AREA_BYTE_COUNT);
    uint8_t *destination = memory_allocate((size_t)4 << 20);
    pattern_fill(area, AREA_BYTE_COUNT, 1);
    for (int round = 0; round < round_count; round += 1) {
        for (int cold = 0; cold <= 1; cold += 1) {
            const size_t value = cold ? (size_t)4 << 20 : (size_t)256 << 10;
            const size_t span = cold ? AREA_BYTE_COUNT : value;
            const char *where = cold ? "cold" : "hot";
            print_row("xxh3", where, value, checksum_gigabytes_per_second(area, value, span));
            print_row("memcpy", where, value,
                      copy_gigabytes_per_second(destination, area, value, span));
            print_row("memcpy-then-xxh3", where, value,
                      copy_and_checksum_gigabytes_per_second(destination, area, value, span));
        }
    }
    return 0;
}
