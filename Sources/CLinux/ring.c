// SPDX-License-Identifier: Apache-2.0
//
// io_uring(7) behind plain structs.
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/socket.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
#define RINGS_ARE_WATCHED 1
#endif
#endif

struct clinux_ring {
    struct io_uring uring;
};

_Static_assert(sizeof(clinux_run) == sizeof(struct iovec), "a run is an iovec");
_Static_assert(offsetof(clinux_run, count) == offsetof(struct iovec, iov_len), "a run is an iovec");

size_t clinux_ring_byte_count(void) { return sizeof(clinux_ring); }

// liburing maps and unmaps rings behind the thread sanitizer's back, which takes a new ring for the
// old one that lay at the same address. So the end of each ring comes before the begin of the next.
#ifdef RINGS_ARE_WATCHED
static char ring_memory;
static void note_ring_begins(void) { __tsan_acquire(&ring_memory); }
static void note_ring_ends(void) { __tsan_release(&ring_memory); }
#else
static void note_ring_begins(void) {}
static void note_ring_ends(void) {}
#endif

int clinux_ring_open(
    clinux_ring *ring, uint32_t submissions, uint32_t completions, bool deferred) {
    struct io_uring_params parameters;
    memset(&parameters, 0, sizeof parameters);
    parameters.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
    if (deferred) {
        parameters.flags |= IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER
            | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    }
    parameters.cq_entries = completions;
    int result = io_uring_queue_init_params(submissions, &ring->uring, &parameters);
    if (result < 0) return result;
    note_ring_begins();
    // EXT_ARG (5.11) carries the timeout of an enter; NODROP keeps completions when the ring is
    // full.
    const uint32_t needed = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
    if ((parameters.features & needed) != needed) {
        io_uring_queue_exit(&ring->uring);
        return -ENOSYS;
    }
    return 0;
}

int clinux_ring_enable(clinux_ring *ring) {
    // Debian 12's liburing does not export io_uring_enable_rings.
    return io_uring_register(
        (unsigned)ring->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

void clinux_ring_close(clinux_ring *ring) {
    note_ring_ends();
    io_uring_queue_exit(&ring->uring);
}

int clinux_ring_register(clinux_ring *ring, const clinux_run *runs, uint32_t count) {
    return io_uring_register_buffers(&ring->uring, (const struct iovec *)runs, count);
}

bool clinux_ring_prepare(clinux_ring *ring, const clinux_operation *operation) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    const clinux_operation *o = operation;
    void *const memory = (void *)(uintptr_t)o->address;
    const bool fixed = o->buffer_index != CLINUX_NO_BUFFER_INDEX;
    switch (o->opcode) {
    case CLINUX_ACCEPT:
        io_uring_prep_accept(entry, o->descriptor, NULL, NULL, SOCK_CLOEXEC);
        break;
    case CLINUX_CONNECT:
        io_uring_prep_connect(entry, o->descriptor, memory, o->length);
        break;
    case CLINUX_RECEIVE:
        io_uring_prep_recv(entry, o->descriptor, memory, o->length, (int)o->flags);
        break;
    case CLINUX_SEND:
        io_uring_prep_send(entry, o->descriptor, memory, o->length, (int)o->flags);
        break;
    case CLINUX_RECEIVE_MESSAGE:
        io_uring_prep_recvmsg(entry, o->descriptor, memory, o->flags);
        break;
    case CLINUX_SEND_MESSAGE:
        io_uring_prep_sendmsg(entry, o->descriptor, memory, o->flags);
        break;
    case CLINUX_READ:
        if (fixed) {
            io_uring_prep_read_fixed(
                entry, o->descriptor, memory, o->length, o->offset, o->buffer_index);
        } else {
            io_uring_prep_read(entry, o->descriptor, memory, o->length, o->offset);
        }
        break;
    case CLINUX_WRITE:
        if (fixed) {
            io_uring_prep_write_fixed(
                entry, o->descriptor, memory, o->length, o->offset, o->buffer_index);
        } else {
            io_uring_prep_write(entry, o->descriptor, memory, o->length, o->offset);
        }
        break;
    case CLINUX_SYNCHRONIZE:
        io_uring_prep_fsync(entry, o->descriptor, IORING_FSYNC_DATASYNC);
        break;
    default:
        io_uring_prep_nop(entry);
        break;
    }
    entry->user_data = o->user_data;
    return true;
}

bool clinux_ring_cancel(clinux_ring *ring, uint64_t user_data, uint64_t cancel_data) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
    if (!entry) return false;
    io_uring_prep_cancel64(entry, user_data, 0);
    entry->user_data = cancel_data;
    return true;
}

// The entries that the kernel has not taken yet, after making them visible to it.
static unsigned flush(struct io_uring *uring) {
    struct io_uring_sq *queue = &uring->sq;
    if (queue->sqe_head != queue->sqe_tail) {
        queue->sqe_head = queue->sqe_tail;
        __atomic_store_n(queue->ktail, queue->sqe_tail, __ATOMIC_RELEASE);
    }
    return queue->sqe_tail - __atomic_load_n(queue->khead, __ATOMIC_ACQUIRE);
}

int clinux_ring_enter(clinux_ring *ring, uint32_t minimum, int64_t timeout) {
    struct __kernel_timespec time = {
        .tv_sec = timeout / 1000000000,
        .tv_nsec = timeout % 1000000000,
    };
    struct io_uring_getevents_arg argument = {
        .ts = timeout >= 0 ? (uint64_t)(uintptr_t)&time : 0,
    };
    return io_uring_enter2(
        (unsigned)ring->uring.ring_fd, flush(&ring->uring), minimum,
        IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, (sigset_t *)&argument, sizeof argument);
}

bool clinux_ring_needs_enter(const clinux_ring *ring) {
    const struct io_uring_sq *queue = &ring->uring.sq;
    const unsigned taken = __atomic_load_n(queue->khead, __ATOMIC_ACQUIRE);
    const unsigned flags = __atomic_load_n(queue->kflags, __ATOMIC_RELAXED);
    return queue->sqe_tail != taken || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

uint32_t clinux_ring_reap(clinux_ring *ring, clinux_completion *completions, uint32_t count) {
    struct io_uring *uring = &ring->uring;
    uint32_t reaped = 0;
    unsigned head;
    struct io_uring_cqe *entry;
    io_uring_for_each_cqe(uring, head, entry) {
        if (reaped == count) break;
        completions[reaped].user_data = entry->user_data;
        completions[reaped].result = entry->res;
        completions[reaped].flags = entry->flags;
        reaped += 1;
    }
    io_uring_cq_advance(uring, reaped);
    return reaped;
}
