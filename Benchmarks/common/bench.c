// SPDX-License-Identifier: Apache-2.0
#include "bench.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

_Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(1);
}

uint64_t clock_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t mix64(uint64_t seed) {
    uint64_t mixed = seed + 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

static uint64_t pattern_word(uint64_t seed, size_t word_index) {
    return mix64(seed * 0x2545f4914f6cdd1du + word_index);
}

void pattern_fill(uint8_t *bytes, size_t byte_count, uint64_t seed) {
    const size_t word_count = byte_count / 8;
    for (size_t index = 0; index < word_count; index += 1) {
        const uint64_t word = pattern_word(seed, index);
        memcpy(bytes + index * 8, &word, 8);
    }
    const uint64_t last = pattern_word(seed, word_count);
    memcpy(bytes + word_count * 8, &last, byte_count % 8);
}

bool pattern_matches(const uint8_t *bytes, size_t byte_count, uint64_t seed) {
    const size_t word_count = byte_count / 8;
    for (size_t index = 0; index < word_count; index += 1) {
        const uint64_t word = pattern_word(seed, index);
        if (memcmp(bytes + index * 8, &word, 8) != 0) return false;
    }
    const uint64_t last = pattern_word(seed, word_count);
    return memcmp(bytes + word_count * 8, &last, byte_count % 8) == 0;
}

bool pattern_ends_match(const uint8_t *bytes, size_t byte_count, uint64_t seed) {
    if (byte_count < 16) return pattern_matches(bytes, byte_count, seed);
    const size_t last_index = byte_count / 8 - 1;
    const uint64_t first = pattern_word(seed, 0);
    const uint64_t last = pattern_word(seed, last_index);
    return memcmp(bytes, &first, 8) == 0 && memcmp(bytes + last_index * 8, &last, 8) == 0;
}

#define HUGE_PAGE_BYTE_COUNT ((size_t)2 << 20)

void *memory_allocate(size_t byte_count) {
    const size_t rounded = (byte_count + HUGE_PAGE_BYTE_COUNT - 1) & ~(HUGE_PAGE_BYTE_COUNT - 1);
    const size_t padded = rounded + HUGE_PAGE_BYTE_COUNT;
    uint8_t *mapped =
        mmap(NULL, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) fail("cannot map %zu bytes: %s", padded, strerror(errno));
    uintptr_t aligned =
        ((uintptr_t)mapped + HUGE_PAGE_BYTE_COUNT - 1) & ~(HUGE_PAGE_BYTE_COUNT - 1);
    (void)madvise((void *)aligned, rounded, MADV_HUGEPAGE);
    memset((void *)aligned, 1, byte_count);
    return (void *)aligned;
}

// True when the mapping at `bytes` is backed by huge pages of shared memory.
static bool mapping_is_huge(const void *bytes) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    if (maps == NULL) return false;
    char line[512], start[32];
    snprintf(start, sizeof start, "%lx-", (unsigned long)(uintptr_t)bytes);
    bool inside = false, huge = false;
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long low, high, kibibytes;
        if (sscanf(line, "%lx-%lx ", &low, &high) == 2) {
            inside = strncmp(line, start, strlen(start)) == 0;
        } else if (inside && sscanf(line, "ShmemPmdMapped: %lu", &kibibytes) == 1) {
            huge = kibibytes > 0;
        }
    }
    fclose(maps);
    return huge;
}

struct shared_arena arena_create(size_t byte_count) {
    struct shared_arena arena = {.byte_count = byte_count, .backing = "hugetlb"};
    arena.descriptor = memfd_create("reference-arena", MFD_CLOEXEC | MFD_HUGETLB);
    void *mapped = MAP_FAILED;
    if (arena.descriptor >= 0 && ftruncate(arena.descriptor, (off_t)byte_count) == 0) {
        mapped = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                      arena.descriptor, 0);
    }
    if (mapped == MAP_FAILED) {
        if (arena.descriptor >= 0) close(arena.descriptor);
        arena.descriptor = memfd_create("reference-arena", MFD_CLOEXEC);
        if (arena.descriptor < 0 || ftruncate(arena.descriptor, (off_t)byte_count) != 0) {
            fail("cannot make an arena of %zu bytes: %s", byte_count, strerror(errno));
        }
        mapped = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED, arena.descriptor, 0);
        if (mapped == MAP_FAILED) fail("cannot map the arena: %s", strerror(errno));
        (void)madvise(mapped, byte_count, MADV_HUGEPAGE);
        memset(mapped, 1, byte_count);
        arena.backing = mapping_is_huge(mapped) ? "shmem-huge" : "shmem-4k";
    }
    arena.bytes = mapped;
    return arena;
}

struct shared_arena arena_map(int descriptor, bool writable) {
    struct shared_arena arena = {.descriptor = descriptor, .backing = "received"};
    struct stat status;
    if (fstat(descriptor, &status) != 0) fail("fstat of the arena: %s", strerror(errno));
    arena.byte_count = (size_t)status.st_size;
    const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *mapped = mmap(NULL, arena.byte_count, protection, MAP_SHARED, descriptor, 0);
    if (mapped == MAP_FAILED) fail("cannot map the received arena: %s", strerror(errno));
    (void)madvise(mapped, arena.byte_count, MADV_HUGEPAGE);
    (void)madvise(mapped, arena.byte_count, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    arena.bytes = mapped;
    return arena;
}

void arena_unmap(struct shared_arena *arena) {
    if (arena->bytes == NULL) return;
    munmap(arena->bytes, arena->byte_count);
    close(arena->descriptor);
    *arena = (struct shared_arena){0};
}

uint64_t process_cpu_nanoseconds(pid_t process) {
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &used) != 0) return 0;
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

uint64_t process_memory_bytes(pid_t process, const char *field) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)process);
    FILE *status = fopen(path, "r");
    if (status == NULL) return 0;
    unsigned long kibibytes = 0;
    const size_t field_length = strlen(field);
    while (fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, field, field_length) == 0 && line[field_length] == ':') {
            kibibytes = strtoul(line + field_length + 1, NULL, 10);
            break;
        }
    }
    fclose(status);
    return (uint64_t)kibibytes * 1024;
}
