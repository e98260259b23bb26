// SPDX-License-Identifier: Apache-2.0
//
// epoll(7), and the operations as system calls that do not wait.
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READY_COUNT_MAX = 128 };

int clinux_poller_open(void) {
    int poller = epoll_create1(EPOLL_CLOEXEC);
    return poller < 0 ? -errno : poller;
}

int clinux_poller_watch(int poller, int descriptor, bool readable, bool writable) {
    struct epoll_event event = {
        .events = EPOLLONESHOT | (readable ? EPOLLIN | EPOLLRDHUP : 0) | (writable ? EPOLLOUT : 0),
        .data.fd = descriptor,
    };
    if (epoll_ctl(poller, EPOLL_CTL_MOD, descriptor, &event) == 0) return 0;
    if (errno != ENOENT) return -errno;
    return epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event) == 0 ? 0 : -errno;
}

int clinux_poller_wait(int poller, clinux_ready *ready, uint32_t count, int64_t timeout) {
    struct epoll_event events[READY_COUNT_MAX];
    struct timespec time = {
        .tv_sec = timeout / 1000000000,
        .tv_nsec = timeout % 1000000000,
    };
    if (count > READY_COUNT_MAX) count = READY_COUNT_MAX;
    int found = epoll_pwait2(poller, events, (int)count, timeout >= 0 ? &time : NULL, NULL);
    if (found < 0) return -errno;
    for (int index = 0; index < found; index += 1) {
        const uint32_t flags = events[index].events;
        const bool ended = (flags & (EPOLLERR | EPOLLHUP)) != 0;
        ready[index].descriptor = events[index].data.fd;
        ready[index].readable = ended || (flags & (EPOLLIN | EPOLLRDHUP)) != 0;
        ready[index].writable = ended || (flags & EPOLLOUT) != 0;
    }
    return found;
}

static int64_t attempt(const clinux_operation *o) {
    const int flags = (int)o->flags | MSG_DONTWAIT;
    void *const memory = (void *)(uintptr_t)o->address;
    switch (o->opcode) {
    case CLINUX_NOP:
        return 0;
    case CLINUX_ACCEPT:
        return accept4(o->descriptor, NULL, NULL, SOCK_CLOEXEC);
    case CLINUX_CONNECT:
        return connect(o->descriptor, memory, o->length);
    case CLINUX_RECEIVE:
        return recv(o->descriptor, memory, o->length, flags);
    case CLINUX_SEND:
        return send(o->descriptor, memory, o->length, flags);
    case CLINUX_RECEIVE_MESSAGE:
        return recvmsg(o->descriptor, memory, flags);
    case CLINUX_SEND_MESSAGE:
        return sendmsg(o->descriptor, memory, flags);
    case CLINUX_READ:
        return pread(o->descriptor, memory, o->length, (off_t)o->offset);
    case CLINUX_WRITE:
        return pwrite(o->descriptor, memory, o->length, (off_t)o->offset);
    case CLINUX_SYNCHRONIZE:
        return fdatasync(o->descriptor);
    default:
        errno = EINVAL;
        return -1;
    }
}

int32_t clinux_perform(const clinux_operation *operation) {
    int64_t result;
    do {
        result = attempt(operation);
    } while (result < 0 && errno == EINTR && operation->opcode != CLINUX_CONNECT);
    if (result >= 0) return (int32_t)result;
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

int clinux_connect_result(int descriptor) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return -errno;
    return -error;
}
