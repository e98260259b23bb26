// SPDX-License-Identifier: Apache-2.0
//
// Bytes over the client's nonblocking socket. Every loop looks at the clock each time round, so a
// daemon that trickles bytes cannot hold a call any longer than one that sends none. Any failure
// here leaves the connection in the middle of a frame, so it is closed on the spot.
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

kvsi_instant kvsi_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/// Waits until `descriptor` is ready; 0, or an errno value: ETIMEDOUT, ECANCELED, …
static int wait_ready(const kvs_client *client, int descriptor, short events,
                      kvsi_instant deadline) {
    for (;;) {
        kvsi_instant now = kvsi_now();
        if (now >= deadline) {
            return ETIMEDOUT;
        }
        struct pollfd polled[2] = {{descriptor, events, 0},
                                   {client->cancel_descriptor, POLLIN, 0}};
        uint64_t left = deadline - now;
        struct timespec timeout = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        int ready_count = ppoll(polled, 2, &timeout, NULL);  // skips negative descriptors
        if (ready_count < 0 && errno != EINTR) {
            return errno;
        }
        if (ready_count > 0) {
            return polled[1].revents != 0 ? ECANCELED : 0;
        }
    }
}

static kvs_status lose(kvs_client *client, int error, const char *doing) {
    kvsi_disconnect(client, error != ECANCELED);
    if (error == ETIMEDOUT) {
        return kvsi_fail(client, KVS_DEADLINE_EXCEEDED,
                         "%s: the deadline passed while %s; compute the chunk, or allow more time",
                         client->address_text, doing);
    }
    return kvsi_fail(client, KVS_CONNECTION_LOST,
                     "%s: connection lost while %s (%s); the next call connects again",
                     client->address_text, doing,
                     error == 0 ? "closed by the daemon" : strerror(error));
}

static void close_keeping_errno(int descriptor) {
    int error = errno;
    (void)close(descriptor);
    errno = error;
}

static int finish_connect(kvs_client *client, int descriptor, kvsi_instant deadline) {
    int error = wait_ready(client, descriptor, POLLOUT, deadline);
    socklen_t byte_count = sizeof error;
    if (error == 0 && getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &byte_count) != 0) {
        error = errno;
    }
    return error;
}

int kvsi_transport_connect(kvs_client *client, const struct kvsi_address *address,
                           kvsi_instant deadline) {
    int family = address->bytes.ss_family;
    int descriptor = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) {
        return -1;
    }
    if (family != AF_UNIX) {
        int on = 1;
        (void)setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    for (;;) {
        const struct sockaddr *bytes = (const struct sockaddr *)&address->bytes;
        int error = connect(descriptor, bytes, address->byte_count) == 0 ? 0 : errno;
        if (error == EAGAIN) {
            // A Unix socket whose backlog is full gives no event to wait for: try again shortly.
            kvsi_instant again = kvsi_now() + KVSI_NANOSECONDS_PER_MILLISECOND;
            error = wait_ready(client, -1, 0, again < deadline ? again : deadline);
            if (error == ETIMEDOUT && kvsi_now() < deadline) {
                continue;
            }
        } else if (error == EINPROGRESS || error == EINTR) {
            error = finish_connect(client, descriptor, deadline);
        }
        if (error == 0) {
            return descriptor;
        }
        errno = error;
        close_keeping_errno(descriptor);
        return -1;
    }
}

/// Drops `byte_count` bytes from the front of `parts`; returns how many parts are used up.
static size_t use_up(struct iovec *parts, size_t part_count, size_t byte_count) {
    size_t index = 0;
    while (index < part_count && byte_count >= parts[index].iov_len) {
        byte_count -= parts[index].iov_len;
        index += 1;
    }
    if (index < part_count) {
        parts[index].iov_base = (uint8_t *)parts[index].iov_base + byte_count;
        parts[index].iov_len -= byte_count;
    }
    return index;
}

kvs_status kvsi_transport_send(kvs_client *client, struct iovec *parts, size_t part_count,
                               kvsi_instant deadline) {
    while (part_count != 0) {
        if (kvsi_now() >= deadline) {
            return lose(client, ETIMEDOUT, "sending");
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = part_count};
        ssize_t sent = sendmsg(client->socket, &message, MSG_NOSIGNAL);
        if (sent >= 0) {
            size_t used = use_up(parts, part_count, (size_t)sent);
            parts += used;
            part_count -= used;
            continue;
        }
        int error = errno;
        if (error == EPIPE || error == ECONNRESET) {
            return KVS_OK;  // closed on us: whoever receives next finds out why, or that it is lost
        }
        if (error == EAGAIN || error == EWOULDBLOCK) {
            error = wait_ready(client, client->socket, POLLOUT, deadline);
        }
        if (error != 0 && error != EINTR) {
            return lose(client, error, "sending");
        }
    }
    return KVS_OK;
}

/// Keeps the first descriptor that came with a message; a second one is closed.
static void keep_descriptor(kvs_client *client, struct msghdr *message) {
    for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control != NULL;
         control = CMSG_NXTHDR(message, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t index = 0; index < count; index += 1) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(control) + index * sizeof(int), sizeof descriptor);
            if (client->received_descriptor < 0) {
                client->received_descriptor = descriptor;
            } else {
                (void)close(descriptor);
            }
        }
    }
}

/// Receives some bytes into `parts`, waiting if there are none yet. Descriptors are only accepted
/// with `with_descriptor`; the kernel drops others.
static kvs_status receive_some(kvs_client *client, struct iovec *parts, size_t part_count,
                               bool with_descriptor, kvsi_instant deadline, size_t *byte_count) {
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    for (;;) {
        if (kvsi_now() >= deadline) {
            return lose(client, ETIMEDOUT, "waiting for the answer");
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = part_count};
        if (with_descriptor) {
            message.msg_control = &control;
            message.msg_controllen = sizeof control;
        }
        ssize_t received = recvmsg(client->socket, &message, MSG_CMSG_CLOEXEC);
        if (received > 0) {
            if (with_descriptor) {
                keep_descriptor(client, &message);
            }
            *byte_count = (size_t)received;
            return KVS_OK;
        }
        if (received == 0) {
            return lose(client, 0, "waiting for the answer");
        }
        int error = errno;
        if (error == EAGAIN || error == EWOULDBLOCK) {
            error = wait_ready(client, client->socket, POLLIN, deadline);
        }
        if (error != 0 && error != EINTR) {
            return lose(client, error, "waiting for the answer");
        }
    }
}

static size_t take_buffered(kvs_client *client, void *bytes, size_t byte_count) {
    size_t available = client->receive_end - client->receive_start;
    size_t taken = byte_count < available ? byte_count : available;
    if (taken != 0) {
        memcpy(bytes, client->receive_buffer + client->receive_start, taken);
        client->receive_start += taken;
    }
    return taken;
}

kvs_status kvsi_transport_receive(kvs_client *client, void *bytes, size_t byte_count,
                                  kvsi_instant deadline) {
    uint8_t *next = bytes;
    for (;;) {
        size_t taken = take_buffered(client, next, byte_count);
        next += taken;
        byte_count -= taken;
        if (byte_count == 0) {
            return KVS_OK;
        }
        bool direct = byte_count >= KVSI_RECEIVE_BUFFER_BYTE_COUNT;
        struct iovec part = {client->receive_buffer, KVSI_RECEIVE_BUFFER_BYTE_COUNT};
        if (direct) {
            part = (struct iovec){next, byte_count};
        }
        size_t received = 0;
        kvs_status status = receive_some(client, &part, 1, !direct, deadline, &received);
        if (status != KVS_OK) {
            return status;
        }
        if (direct) {
            next += received;
            byte_count -= received;
        } else {
            client->receive_start = 0;
            client->receive_end = received;
        }
    }
}

kvs_status kvsi_transport_discard(kvs_client *client, uint64_t byte_count, kvsi_instant deadline) {
    // The request was sent long ago: its memory is free to be overwritten.
    while (byte_count != 0) {
        uint64_t limit = sizeof client->request;
        size_t part = (size_t)(byte_count < limit ? byte_count : limit);
        kvs_status status = kvsi_transport_receive(client, client->request, part, deadline);
        if (status != KVS_OK) {
            return status;
        }
        byte_count -= part;
    }
    return KVS_OK;
}

/// A place in a list of spans.
struct span_cursor {
    const kvs_span *spans;
    size_t span_count;
    size_t offset;  // within the first span
};

/// Describes up to `limit` bytes from the cursor on.
static size_t fill_parts(const struct span_cursor *cursor, struct iovec *parts, uint64_t limit) {
    size_t part_count = 0;
    size_t offset = cursor->offset;
    for (size_t index = 0; index < cursor->span_count && limit != 0 &&
                           part_count < KVSI_IOVEC_COUNT_MAXIMUM; index += 1) {
        const kvs_span *span = &cursor->spans[index];
        size_t byte_count = span->byte_count - offset;
        if (byte_count > limit) {
            byte_count = (size_t)limit;
        }
        if (byte_count != 0) {
            parts[part_count] = (struct iovec){(uint8_t *)span->bytes + offset, byte_count};
            part_count += 1;
        }
        limit -= byte_count;
        offset = 0;
    }
    return part_count;
}

/// Moves the cursor over `byte_count` bytes, hashing them.
static void advance(struct span_cursor *cursor, size_t byte_count, void *state) {
    while (byte_count != 0) {
        const kvs_span *span = cursor->spans;
        size_t left = span->byte_count - cursor->offset;
        size_t part = byte_count < left ? byte_count : left;
        if (part != 0) {
            ckernels_xxh3_update(state, (const uint8_t *)span->bytes + cursor->offset, part);
        }
        byte_count -= part;
        cursor->offset += part;
        if (cursor->offset == span->byte_count) {
            cursor->spans += 1;
            cursor->span_count -= 1;
            cursor->offset = 0;
        }
    }
}

kvs_status kvsi_transport_receive_spans(kvs_client *client, const kvs_span *spans,
                                        size_t span_count, uint64_t byte_count, uint64_t *hash,
                                        kvsi_instant deadline) {
    _Alignas(64) uint8_t state[CKERNELS_XXH3_STATE_BYTE_COUNT];
    struct iovec parts[KVSI_IOVEC_COUNT_MAXIMUM];
    struct span_cursor cursor = {spans, span_count, 0};
    ckernels_xxh3_reset(state);
    while (byte_count != 0) {
        uint64_t limit = byte_count < KVSI_SLICE_BYTE_COUNT ? byte_count : KVSI_SLICE_BYTE_COUNT;
        size_t part_count = fill_parts(&cursor, parts, limit);
        size_t received = 0;
        if (part_count == 0) {
            return lose(client, EMSGSIZE, "filling the destination");
        }
        if (client->receive_start < client->receive_end) {
            received = take_buffered(client, parts[0].iov_base, parts[0].iov_len);
        } else {
            kvs_status status =
                receive_some(client, parts, part_count, false, deadline, &received);
            if (status != KVS_OK) {
                return status;
            }
        }
        advance(&cursor, received, state);
        byte_count -= received;
    }
    *hash = ckernels_xxh3_digest(state);
    return KVS_OK;
}

bool kvsi_transport_is_stale(kvs_client *client) {
    uint8_t byte;
    if (client->receive_start != client->receive_end) {
        return true;
    }
    ssize_t received = recv(client->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return received >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}
