// SPDX-License-Identifier: Apache-2.0
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un unix_address(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) fail("the socket path is too long: %s", path);
    strcpy(address.sun_path, path);
    return address;
}

static struct sockaddr_in internet_address(const char *text, uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1) fail("not an IPv4 address: %s", text);
    return address;
}

static void set_timeouts(int descriptor) {
    const struct timeval timeout = {.tv_sec = BENCH_SOCKET_TIMEOUT_SECONDS};
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
}

int socket_connect(const struct endpoint *endpoint) {
    const int family = endpoint->unix_path != NULL ? AF_UNIX : AF_INET;
    const int descriptor = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -1;
    set_timeouts(descriptor);
    int result;
    if (family == AF_UNIX) {
        const struct sockaddr_un address = unix_address(endpoint->unix_path);
        result = connect(descriptor, (const struct sockaddr *)&address, sizeof address);
    } else {
        const int on = 1;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (endpoint->source_address != NULL) {
            // Ports are chosen at connect, per destination, so one source address gives ~28,000.
            setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
            const struct sockaddr_in source = internet_address(endpoint->source_address, 0);
            if (bind(descriptor, (const struct sockaddr *)&source, sizeof source) != 0) {
                close(descriptor);
                return -1;
            }
        }
        const struct sockaddr_in address = internet_address(endpoint->address, endpoint->port);
        result = connect(descriptor, (const struct sockaddr *)&address, sizeof address);
    }
    if (result != 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

int socket_listen(const struct endpoint *endpoint) {
    const int family = endpoint->unix_path != NULL ? AF_UNIX : AF_INET;
    const int descriptor = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -1;
    int result;
    if (family == AF_UNIX) {
        const struct sockaddr_un address = unix_address(endpoint->unix_path);
        (void)unlink(endpoint->unix_path);
        result = bind(descriptor, (const struct sockaddr *)&address, sizeof address);
    } else {
        const int on = 1;
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const struct sockaddr_in address = internet_address(endpoint->address, endpoint->port);
        result = bind(descriptor, (const struct sockaddr *)&address, sizeof address);
    }
    if (result != 0 || listen(descriptor, 1024) != 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

bool send_exactly(int descriptor, const void *bytes, size_t byte_count) {
    const uint8_t *next = bytes;
    while (byte_count > 0) {
        const ssize_t sent = send(descriptor, next, byte_count, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        next += sent;
        byte_count -= (size_t)sent;
    }
    return true;
}

bool receive_exactly(int descriptor, void *bytes, size_t byte_count) {
    uint8_t *next = bytes;
    while (byte_count > 0) {
        const ssize_t received = recv(descriptor, next, byte_count, MSG_WAITALL);
        if (received < 0 && errno == EINTR) continue;
        if (received <= 0) return false;
        next += received;
        byte_count -= (size_t)received;
    }
    return true;
}

// Drops `byte_count` moved bytes from the front of the pieces.
static void consume_pieces(struct iovec **pieces, int *piece_count, size_t byte_count) {
    while (*piece_count > 0 && byte_count >= (*pieces)->iov_len) {
        byte_count -= (*pieces)->iov_len;
        *pieces += 1;
        *piece_count -= 1;
    }
    if (*piece_count > 0) {
        (*pieces)->iov_base = (uint8_t *)(*pieces)->iov_base + byte_count;
        (*pieces)->iov_len -= byte_count;
    }
}

bool send_pieces(int descriptor, struct iovec *pieces, int piece_count) {
    while (piece_count > 0) {
        const struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)piece_count};
        const ssize_t sent = sendmsg(descriptor, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        consume_pieces(&pieces, &piece_count, (size_t)sent);
    }
    return true;
}

bool receive_pieces(int descriptor, struct iovec *pieces, int piece_count) {
    while (piece_count > 0) {
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)piece_count};
        const ssize_t received = recvmsg(descriptor, &message, MSG_WAITALL);
        if (received < 0 && errno == EINTR) continue;
        if (received <= 0) return false;
        consume_pieces(&pieces, &piece_count, (size_t)received);
    }
    return true;
}

union descriptor_control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr alignment;
};

bool send_with_descriptor(int socket, const void *bytes, size_t byte_count, int descriptor) {
    union descriptor_control control = {0};
    struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = byte_count};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)byte_count;
}

ssize_t receive_with_descriptor(int socket, void *bytes, size_t byte_count, int *descriptor) {
    union descriptor_control control = {0};
    struct iovec piece = {.iov_base = bytes, .iov_len = byte_count};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    *descriptor = -1;
    const ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (received <= 0) return received;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
        memcpy(descriptor, CMSG_DATA(header), sizeof *descriptor);
    }
    return received;
}
