// SPDX-License-Identifier: Apache-2.0
//
// Doorways to what Swift cannot import from Glibc: io_uring, epoll, memfd, SCM_RIGHTS, O_DIRECT.
// No policy here. System headers are included in the .c files alone: liburing's clash with those
// that Swift's Glibc module has. Unless a comment says otherwise, a function returns 0 (or a
// descriptor, or a count) when it succeeded and a negative errno value when it did not.
#ifndef CLINUX_H
#define CLINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- Operations and completions: one form for both backends ----

enum {
    CLINUX_NOP = 0,
    CLINUX_ACCEPT = 1,
    CLINUX_CONNECT = 2,
    CLINUX_RECEIVE = 3,
    CLINUX_SEND = 4,
    CLINUX_RECEIVE_MESSAGE = 5,
    CLINUX_SEND_MESSAGE = 6,
    CLINUX_READ = 7,
    CLINUX_WRITE = 8,
    CLINUX_SYNCHRONIZE = 9,
};

enum { CLINUX_NO_BUFFER_INDEX = 0xffff };

typedef struct clinux_operation {
    uint64_t user_data;
    // Offset in the file.
    uint64_t offset;
    // Address of the buffer, of the socket address (CONNECT) or of the clinux_scratch with a
    // message.
    uint64_t address;
    uint32_t length;
    int32_t descriptor;
    // MSG_* for sockets.
    uint32_t flags;
    // Number of the registered buffer that holds the address, or CLINUX_NO_BUFFER_INDEX.
    uint16_t buffer_index;
    uint8_t opcode;
} clinux_operation;

typedef struct clinux_completion {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
} clinux_completion;

// A run of memory; the same layout as struct iovec.
typedef struct clinux_run {
    void *start;
    size_t count;
} clinux_run;

// Room for one socket address or one message (msghdr, two iovecs, one descriptor).
typedef struct clinux_scratch {
    uint64_t words[24];
} clinux_scratch;

// ---- io_uring (ring.c) ----

typedef struct clinux_ring clinux_ring;

size_t clinux_ring_byte_count(void);
// Opens a ring that is disabled still, so that any thread may open it and register buffers.
// With `deferred`: SINGLE_ISSUER | DEFER_TASKRUN; -EINVAL from kernels before 6.1.
int clinux_ring_open(clinux_ring *ring, uint32_t submissions, uint32_t completions, bool deferred);
// Enables the ring; the calling thread alone may use it from now on.
int clinux_ring_enable(clinux_ring *ring);
void clinux_ring_close(clinux_ring *ring);
int clinux_ring_register(clinux_ring *ring, const clinux_run *runs, uint32_t count);
// False when the submission queue is full.
bool clinux_ring_prepare(clinux_ring *ring, const clinux_operation *operation);
// Asks to end the operation with this user_data; it completes with -ECANCELED, unless it was
// faster. The request itself completes with the user_data `cancel_data`.
bool clinux_ring_cancel(clinux_ring *ring, uint64_t user_data, uint64_t cancel_data);
// Submits what was prepared and waits for `minimum` completions, at most `timeout` nanoseconds
// (negative: without end). Also returns early for a signal or for the time (-EINTR, -ETIME).
int clinux_ring_enter(clinux_ring *ring, uint32_t minimum, int64_t timeout);
// Whether an enter would submit something or run completions that wait in the kernel.
bool clinux_ring_needs_enter(const clinux_ring *ring);
// Takes up to `count` completions off the ring.
uint32_t clinux_ring_reap(clinux_ring *ring, clinux_completion *completions, uint32_t count);

// ---- epoll and system calls that do not wait (poll.c) ----

typedef struct clinux_ready {
    int32_t descriptor;
    bool readable;
    bool writable;
} clinux_ready;

int clinux_poller_open(void);
// Waits once for the given directions of `descriptor`; registers it when it is not yet.
int clinux_poller_watch(int poller, int descriptor, bool readable, bool writable);
// Negative timeout: without end. Nanoseconds.
int clinux_poller_wait(int poller, clinux_ready *ready, uint32_t count, int64_t timeout);
// Performs the operation at once. Sockets: -EAGAIN when it would wait (-EINPROGRESS for CONNECT).
int32_t clinux_perform(const clinux_operation *operation);
// How a connect that was under way ended.
int clinux_connect_result(int descriptor);

// ---- Sockets (socket.c) ----

enum { CLINUX_ADDRESS_TEXT_BYTE_COUNT = 64 };

// MSG_WAITALL and MSG_NOSIGNAL.
extern const uint32_t clinux_flag_wait_all;
extern const uint32_t clinux_flag_no_signal;
// MSG_CMSG_CLOEXEC.
extern const uint32_t clinux_flag_close_on_exec;

// Both write an address into `scratch` and return its length in bytes.
int clinux_address_unix(clinux_scratch *scratch, const char *path);
int clinux_address_tcp(clinux_scratch *scratch, const char *host, uint16_t port);
// A stream socket of the address's family, closed on exec.
int clinux_socket_open(const clinux_scratch *address);
int clinux_socket_bind(int socket, const clinux_scratch *address, int address_length);
int clinux_socket_listen(int socket);
// Blocking; for the probe of a stale Unix socket only.
int clinux_socket_connect(int socket, const clinux_scratch *address, int address_length);
int clinux_descriptor_set_nonblocking(int descriptor);
// Makes a descriptor that another process opened like our own: closed on exec, and without
// O_NONBLOCK. -EBADF when there is none.
int clinux_descriptor_claim(int descriptor);
// What a stream of the daemon wants; errors are those of setsockopt(2).
int clinux_socket_set_stream_options(int socket, int idle_seconds, int interval_seconds,
                                     int probes);
// Whether the socket's family is AF_UNIX: 1 or 0.
int clinux_socket_is_local(int socket);
// Text of an endpoint (of this side, or of the peer) and its port.
int clinux_socket_name(int socket, bool peer, char text[CLINUX_ADDRESS_TEXT_BYTE_COUNT],
                       uint16_t *port);
// SO_PEERCRED.
int clinux_socket_peer(int socket, int32_t *process, uint32_t *user);
// Whether it is a TCP socket that is connected: 1 or 0. Any descriptor may be asked about.
int clinux_socket_is_tcp_connection(int socket);
void clinux_socket_shutdown(int socket);
// `clinux_socket_pair` is socketpair(AF_UNIX, SOCK_STREAM).
int clinux_socket_pair(int descriptors[2]);

// Sends one datagram to a Unix socket: a path, or `@` and the name of an abstract one; with a copy
// of the descriptor `passed` unless that is negative. Waits at most a second for the receiver.
int clinux_datagram_send(const char *path, size_t path_length, clinux_run text, int passed);

// A message of two runs (the second may be empty) in `scratch`.
void clinux_message_set(clinux_scratch *scratch, clinux_run first, clinux_run second);
// Adds a descriptor to send (SCM_RIGHTS).
void clinux_message_attach(clinux_scratch *scratch, int descriptor);
// Adds room to receive one descriptor.
void clinux_message_expect(clinux_scratch *scratch);
// The descriptor that was received, or -1. The caller owns it.
int clinux_message_take(clinux_scratch *scratch);

// ---- Memory, files, threads (system.c) ----

// A memfd of `byte_count` bytes that can be sealed; `huge`: of 2 MiB pages (MFD_HUGETLB).
int clinux_memory_file(const char *name, size_t byte_count, bool huge);
// F_SEAL_SHRINK | F_SEAL_GROW, with `read_only` also F_SEAL_FUTURE_WRITE, with `final` F_SEAL_SEAL.
int clinux_memory_seal(int descriptor, bool read_only, bool final);
// 1 when the file can neither shrink nor grow any more, else 0.
int clinux_memory_is_fixed(int descriptor);
int clinux_memory_map(int descriptor, size_t byte_count, bool writable, void **start);
int clinux_memory_unmap(void *start, size_t byte_count);
int clinux_memory_advise_huge(void *start, size_t byte_count);
// MADV_POPULATE_WRITE: touches every page, so that none faults later.
int clinux_memory_populate(void *start, size_t byte_count);
int64_t clinux_file_byte_count(int descriptor);
// Reads up to `count` bytes of the (small) file at `path`; returns how many.
int clinux_file_read_text(const char *path, char *text, uint32_t count);

enum { CLINUX_OPEN_READ_ONLY = 0, CLINUX_OPEN_READ_WRITE = 1, CLINUX_OPEN_DIRECT = 2 };
int clinux_file_open(const char *path, int mode);
int clinux_file_remove(const char *path);
// As `clinux_file_open`, of a name in an open directory; symbolic links are refused (-ELOOP).
int clinux_file_open_in(int directory, const char *name, int mode);
// Whether there is a socket at `path`: 1 or 0.
int clinux_file_is_socket(const char *path);
int clinux_file_set_mode(const char *path, uint32_t mode);
int clinux_event_open(bool nonblocking);
void clinux_event_signal(int descriptor);
// Takes the signals that are there; does not wait when the event is non-blocking.
void clinux_event_clear(int descriptor);
void clinux_close(int descriptor);
uint64_t clinux_now(void);
uint64_t clinux_random(void);
// Raises RLIMIT_NOFILE to its hard limit; returns the limit that holds now.
int64_t clinux_raise_descriptor_limit(void);

// ---- Directories (directory.c) ----

// A walk over the regular files of a directory.
typedef struct clinux_listing clinux_listing;

// Opens a directory for the calls below.
int clinux_directory_open(const char *path);
int clinux_listing_open(int directory, clinux_listing **listing);
// 1: `name` is the next file's, until the next call; 0: there are no more.
int clinux_listing_next(clinux_listing *listing, const char **name);
void clinux_listing_close(clinux_listing *listing);
// -ENOENT, too, for what is no regular file.
int64_t clinux_directory_byte_count(int directory, const char *name);
// Makes the file that large at least, its blocks reserved and its size durable, or leaves it as it
// was; a file that it created is removed again.
int clinux_directory_preallocate(int directory, const char *name, uint64_t byte_count);
int clinux_directory_remove(int directory, const char *name);
int clinux_directory_rename(int directory, const char *name, const char *new_name);
int clinux_directory_synchronize(int directory);
// What unprivileged users may still fill of the file system.
int64_t clinux_directory_free_byte_count(int directory);
// Creates the file when missing and locks it; returns a descriptor that holds the lock, or
// -EWOULDBLOCK when somebody else has it.
int clinux_directory_lock(int directory, const char *name);
// Gives a lock back, also where a process that was forked meanwhile has the descriptor too, as it
// does until it calls exec; closing would leave it locked as long. The descriptor stays open.
void clinux_directory_unlock(int descriptor);

// Starts a thread with all signals blocked; `cpu` < 0: any.
int clinux_thread_start(
    uint64_t *thread, const char *name, int cpu, void *(*body)(void *), void *context);
int clinux_thread_join(uint64_t thread);
// Makes the calling thread one that works in the background: SCHED_BATCH, and `niceness` (0 to 19).
// Where the kernel refuses that, the thread stays as it is.
void clinux_thread_stand_back(int niceness);
// A mark of the calling thread, for confinement checks; NULL until it was set.
void *clinux_thread_mark(void);
void clinux_thread_set_mark(void *mark);

#endif
