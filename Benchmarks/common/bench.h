// SPDX-License-Identifier: Apache-2.0
//
// What the reference server, the load client and the soak client share: time, failure, memory,
// sockets, value patterns. Everything here is bounded: sockets carry timeouts, sizes have limits
// below.
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
    BENCH_KEY_BYTE_COUNT = 32,
    BENCH_CONNECTION_COUNT_MAX = 1024,  // measured connections; idle ones are the soak client's
    BENCH_BATCH_KEY_COUNT_MAX = 64,     // keys that one LEASE names
    BENCH_SOCKET_TIMEOUT_SECONDS = 30,  // a server that answers nothing ends the run, not the night
};

#define BENCH_VALUE_BYTE_COUNT_MAX ((size_t)256 << 20)

// Ends the process with one line that says what failed (printf format).
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t clock_nanoseconds(void);

// A well mixed 64-bit number of `seed`: the finaliser of SplitMix64.
uint64_t mix64(uint64_t seed);

// Writes the value that belongs to `seed`, and tells whether `bytes` hold it.
void pattern_fill(uint8_t *bytes, size_t byte_count, uint64_t seed);
bool pattern_matches(const uint8_t *bytes, size_t byte_count, uint64_t seed);
// Compares only the first and the last eight bytes: cheap enough for the measured loop.
bool pattern_ends_match(const uint8_t *bytes, size_t byte_count, uint64_t seed);

// Anonymous memory, touched, on huge pages where the machine gives them.
void *memory_allocate(size_t byte_count);

struct shared_arena {
    int descriptor;
    uint8_t *bytes;
    size_t byte_count;
    const char *backing;  // "hugetlb", "shmem-huge" or "shmem-4k"
};

// A memfd arena, touched: MFD_HUGETLB where reserved, else transparent huge pages, else 4 KiB
// pages.
struct shared_arena arena_create(size_t byte_count);
// Maps a received arena.
struct shared_arena arena_map(int descriptor, bool writable);
// Unmaps it and closes the descriptor; does nothing to what was never mapped.
void arena_unmap(struct shared_arena *arena);

struct endpoint {
    const char *unix_path;  // used when not null
    const char *address;    // IPv4, numbers
    uint16_t port;
    const char *source_address;  // null: any
};

int socket_connect(const struct endpoint *endpoint);
// Listens on a Unix path or on an IPv4 address; port 0 is not resolved.
int socket_listen(const struct endpoint *endpoint);

// Both move exactly all bytes, or return false (peer closed, error, timeout; errno tells).
bool send_exactly(int descriptor, const void *bytes, size_t byte_count);
bool receive_exactly(int descriptor, void *bytes, size_t byte_count);
// As above over at most four pieces; the pieces are consumed.
bool send_pieces(int descriptor, struct iovec *pieces, int piece_count);
bool receive_pieces(int descriptor, struct iovec *pieces, int piece_count);

// One message with a descriptor beside it. The received message has at least one byte and at most
// `byte_count`; *descriptor is -1 when none came.
bool send_with_descriptor(int socket, const void *bytes, size_t byte_count, int descriptor);
ssize_t receive_with_descriptor(int socket, void *bytes, size_t byte_count, int *descriptor);

// CPU time (user + system, all threads, those that ended too) of a process, in nanoseconds.
uint64_t process_cpu_nanoseconds(pid_t process);
// A "VmRSS"-like line of /proc/PID/status in bytes, or 0.
uint64_t process_memory_bytes(pid_t process, const char *field);

#endif
