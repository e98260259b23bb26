// SPDX-License-Identifier: Apache-2.0
//
// Memory files and seals, files, events, limits, threads.
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int clinux_memory_file(const char *name, size_t byte_count, bool huge) {
    const unsigned huge_flags = huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
    const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | huge_flags;
    const int descriptor = memfd_create(name, flags);
    if (descriptor < 0) return -errno;
    if (ftruncate(descriptor, (off_t)byte_count) != 0) {
        const int error = errno;
        close(descriptor);
        return -error;
    }
    return descriptor;
}

int clinux_memory_seal(int descriptor, bool read_only, bool final) {
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | (read_only ? F_SEAL_FUTURE_WRITE : 0)
        | (final ? F_SEAL_SEAL : 0);
    return fcntl(descriptor, F_ADD_SEALS, seals) == 0 ? 0 : -errno;
}

int clinux_memory_is_fixed(int descriptor) {
    const int seals = fcntl(descriptor, F_GET_SEALS);
    if (seals < 0) return -errno;
    return (seals & F_SEAL_SHRINK) != 0 && (seals & F_SEAL_GROW) != 0;
}

int clinux_memory_map(int descriptor, size_t byte_count, bool writable, void **start) {
    const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
    void *mapped = mmap(NULL, byte_count, protection, MAP_SHARED, descriptor, 0);
    if (mapped == MAP_FAILED) return -errno;
    *start = mapped;
    return 0;
}

int clinux_memory_unmap(void *start, size_t byte_count) {
    return munmap(start, byte_count) == 0 ? 0 : -errno;
}

int clinux_memory_advise_huge(void *start, size_t byte_count) {
    return madvise(start, byte_count, MADV_HUGEPAGE) == 0 ? 0 : -errno;
}

int clinux_memory_populate(void *start, size_t byte_count) {
    return madvise(start, byte_count, MADV_POPULATE_WRITE) == 0 ? 0 : -errno;
}

int64_t clinux_file_byte_count(int descriptor) {
    struct stat status;
    return fstat(descriptor, &status) == 0 ? (int64_t)status.st_size : -errno;
}

int clinux_file_read_text(const char *path, char *text, uint32_t count) {
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return -errno;
    const ssize_t result = read(descriptor, text, count);
    const int error = errno;
    close(descriptor);
    return result < 0 ? -error : (int)result;
}

static int open_in(int directory, const char *path, int mode, int flags) {
    flags |= O_CLOEXEC;
    if (mode == CLINUX_OPEN_READ_ONLY) flags |= O_RDONLY;
    else flags |= O_RDWR | O_CREAT;
    if (mode == CLINUX_OPEN_DIRECT) flags |= O_DIRECT;
    const int descriptor = openat(directory, path, flags, 0600);
    return descriptor < 0 ? -errno : descriptor;
}

int clinux_file_open(const char *path, int mode) { return open_in(AT_FDCWD, path, mode, 0); }

int clinux_file_open_in(int directory, const char *name, int mode) {
    return open_in(directory, name, mode, O_NOFOLLOW);
}

int clinux_file_remove(const char *path) { return unlink(path) == 0 ? 0 : -errno; }

int clinux_file_is_socket(const char *path) {
    struct stat status;
    if (lstat(path, &status) != 0) return -errno;
    return S_ISSOCK(status.st_mode);
}

int clinux_file_set_mode(const char *path, uint32_t mode) {
    return chmod(path, (mode_t)mode) == 0 ? 0 : -errno;
}

int clinux_event_open(bool nonblocking) {
    const int descriptor = eventfd(0, EFD_CLOEXEC | (nonblocking ? EFD_NONBLOCK : 0));
    return descriptor < 0 ? -errno : descriptor;
}

void clinux_event_signal(int descriptor) {
    const uint64_t one = 1;
    while (write(descriptor, &one, sizeof one) < 0 && errno == EINTR) continue;
}

void clinux_event_clear(int descriptor) {
    uint64_t count;
    while (read(descriptor, &count, sizeof count) < 0 && errno == EINTR) continue;
}

void clinux_close(int descriptor) { (void)close(descriptor); }

uint64_t clinux_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

// getrandom(2) of at most 256 bytes is never short and fails only before the system's first
// entropy, for which it waits.
uint64_t clinux_random(void) {
    uint64_t bits = 0;
    while (getrandom(&bits, sizeof bits, 0) != (ssize_t)sizeof bits) continue;
    return bits;
}

int64_t clinux_raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return -errno;
    const struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) != 0) return (int64_t)limit.rlim_cur;
    return (int64_t)raised.rlim_cur;
}

static _Thread_local void *current_mark;

void *clinux_thread_mark(void) { return current_mark; }
void clinux_thread_set_mark(void *mark) { current_mark = mark; }

int clinux_thread_start(
    uint64_t *thread, const char *name, int cpu, void *(*body)(void *), void *context) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
        pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    }
    // Signals stay with the main thread, which knows what to do with them.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t started;
    const int error = pthread_create(&started, &attributes, body, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error != 0) return -error;
    // At most 15 bytes; a longer name is not set.
    pthread_setname_np(started, name);
    *thread = (uint64_t)started;
    return 0;
}

int clinux_thread_join(uint64_t thread) { return -pthread_join((pthread_t)thread, NULL); }

void clinux_thread_stand_back(int niceness) {
    const struct sched_param none = {0};
    (void)sched_setscheduler(0, SCHED_BATCH, &none);
    // On Linux, 0 is the calling thread alone.
    (void)setpriority(PRIO_PROCESS, 0, niceness);
}
