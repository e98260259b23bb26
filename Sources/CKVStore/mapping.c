// SPDX-License-Identifier: Apache-2.0
//
// Regions of the daemon's memory, the fork guard, and copying with the checksum in one pass.
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct kvsi_mapping *kvsi_mapping_open(int descriptor, uint64_t byte_count, bool writable) {
    struct stat status;
    // Without the seal the other side could shrink the region and kill us with SIGBUS.
    int seals = fcntl(descriptor, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(descriptor, &status) != 0 ||
        byte_count == 0 || byte_count > SIZE_MAX || (uint64_t)status.st_size < byte_count) {
        errno = EINVAL;
        return NULL;
    }
    struct kvsi_mapping *mapping = malloc(sizeof *mapping);
    if (mapping == NULL) {
        return NULL;
    }
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *bytes = mmap(NULL, (size_t)byte_count, protection, MAP_SHARED, descriptor, 0);
    if (bytes == MAP_FAILED) {
        free(mapping);
        return NULL;
    }
    *mapping = (struct kvsi_mapping){bytes, byte_count, 1};
    return mapping;
}

void kvsi_mapping_hold(struct kvsi_mapping *mapping) { mapping->holder_count += 1; }

void kvsi_mapping_drop(struct kvsi_mapping *mapping) {
    if (mapping == NULL) {
        return;
    }
    mapping->holder_count -= 1;
    if (mapping->holder_count == 0) {
        (void)munmap(mapping->bytes, (size_t)mapping->byte_count);
        free(mapping);
    }
}

// A process id can come again, and a child in a new namespace may even have its parent's; a page
// that the kernel wipes on fork cannot be mistaken.
bool kvsi_fork_guard_open(struct kvsi_fork_guard *guard) {
    size_t byte_count = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *guard = (struct kvsi_fork_guard){NULL, getpid()};
    if (page == MAP_FAILED) {
        return false;
    }
    if (madvise(page, byte_count, MADV_WIPEONFORK) != 0) {
        (void)munmap(page, byte_count);
        return true;
    }
    guard->page = page;
    guard->page[0] = 1;
    return true;
}

bool kvsi_fork_guard_tripped(const struct kvsi_fork_guard *guard) {
    return guard->page != NULL ? guard->page[0] == 0 : guard->process_id != getpid();
}

void kvsi_fork_guard_rearm(struct kvsi_fork_guard *guard) {
    guard->process_id = getpid();
    if (guard->page != NULL) {
        guard->page[0] = 1;
    }
}

void kvsi_fork_guard_close(struct kvsi_fork_guard *guard) {
    if (guard->page != NULL) {
        (void)munmap((void *)guard->page, (size_t)sysconf(_SC_PAGESIZE));
        guard->page = NULL;
    }
}

static size_t smaller(uint64_t left, uint64_t right) {
    return (size_t)(left < right ? left : right);
}

// The copy is hashed, not the source: shared memory could change between the two.
static void copy_slices(uint8_t *destination, const uint8_t *source, uint64_t byte_count,
                        void *state) {
    while (byte_count != 0) {
        size_t slice = smaller(byte_count, KVSI_SLICE_BYTE_COUNT / 4);
        memcpy(destination, source, slice);
        ckernels_xxh3_update(state, destination, slice);
        destination += slice;
        source += slice;
        byte_count -= slice;
    }
}

uint64_t kvsi_copy_hashed_in(uint8_t *bytes, const kvs_const_span *parts, size_t part_count) {
    _Alignas(64) uint8_t state[CKERNELS_XXH3_STATE_BYTE_COUNT];
    ckernels_xxh3_reset(state);
    for (size_t index = 0; index < part_count; index += 1) {
        copy_slices(bytes, parts[index].bytes, parts[index].byte_count, state);
        bytes += parts[index].byte_count;
    }
    return ckernels_xxh3_digest(state);
}

uint64_t kvsi_copy_hashed_out(const kvs_span *spans, size_t span_count, const uint8_t *bytes,
                              uint64_t byte_count) {
    _Alignas(64) uint8_t state[CKERNELS_XXH3_STATE_BYTE_COUNT];
    ckernels_xxh3_reset(state);
    for (size_t index = 0; index < span_count && byte_count != 0; index += 1) {
        size_t part = smaller(spans[index].byte_count, byte_count);
        copy_slices(spans[index].bytes, bytes, part, state);
        bytes += part;
        byte_count -= part;
    }
    return ckernels_xxh3_digest(state);
}

bool kvsi_span_byte_count(const kvs_span *spans, size_t span_count, uint64_t *byte_count) {
    *byte_count = 0;
    for (size_t index = 0; index < span_count; index += 1) {
        if ((spans[index].bytes == NULL && spans[index].byte_count != 0) ||
            spans[index].byte_count > UINT64_MAX - *byte_count) {
            return false;
        }
        *byte_count += spans[index].byte_count;
    }
    return true;
}

bool kvsi_part_byte_count(const kvs_const_span *parts, size_t part_count, uint64_t *byte_count) {
    *byte_count = 0;
    for (size_t index = 0; index < part_count; index += 1) {
        if ((parts[index].bytes == NULL && parts[index].byte_count != 0) ||
            parts[index].byte_count > UINT64_MAX - *byte_count) {
            return false;
        }
        *byte_count += parts[index].byte_count;
    }
    return true;
}
