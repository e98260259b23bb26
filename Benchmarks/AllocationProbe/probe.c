// SPDX-License-Identifier: Apache-2.0
#include "CAllocationProbe.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Thread_local int counting_this_thread;
static atomic_long allocation_count;

static void note(void) {
    if (counting_this_thread)
        atomic_fetch_add_explicit(&allocation_count, 1, memory_order_relaxed);
}

void *malloc(size_t byte_count) {
    note();
    return __libc_malloc(byte_count);
}

void *calloc(size_t count, size_t byte_count) {
    note();
    return __libc_calloc(count, byte_count);
}

void *realloc(void *old, size_t byte_count) {
    note();
    return __libc_realloc(old, byte_count);
}

void *memalign(size_t alignment, size_t byte_count) {
    note();
    return __libc_memalign(alignment, byte_count);
}

void *aligned_alloc(size_t alignment, size_t byte_count) {
    note();
    return __libc_memalign(alignment, byte_count);
}

int posix_memalign(void **result, size_t alignment, size_t byte_count) {
    note();
    void *memory = __libc_memalign(alignment, byte_count);
    if (memory == NULL) return ENOMEM;
    *result = memory;
    return 0;
}

void allocation_probe_count_this_thread(int counting) {
    counting_this_thread = counting;
}

long allocation_probe_count(void) {
    return atomic_load(&allocation_count);
}

void allocation_probe_reset(void) {
    atomic_store(&allocation_count, 0);
}
