// SPDX-License-Identifier: Apache-2.0
//
// Socket addresses, options and messages: the macros and casts of socket(7), unix(7), cmsg(3).
#define _GNU_SOURCE
#include "CLinux.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct message {
    struct msghdr header;
    struct iovec runs[2];
    union {
        struct cmsghdr alignment;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
} message;

_Static_assert(sizeof(message) <= sizeof(clinux_scratch), "a message fits");
_Static_assert(sizeof(struct sockaddr_storage) <= sizeof(clinux_scratch), "an address fits");
_Static_assert(sizeof(struct sockaddr_un) <= sizeof(clinux_scratch), "an address fits");

const uint32_t clinux_flag_wait_all = MSG_WAITALL;
const uint32_t clinux_flag_no_signal = MSG_NOSIGNAL;
const uint32_t clinux_flag_close_on_exec = MSG_CMSG_CLOEXEC;

int clinux_address_unix(clinux_scratch *scratch, const char *path) {
    struct sockaddr_un *address = (struct sockaddr_un *)scratch;
    const size_t length = strlen(path);
    if (length == 0) return -EINVAL;
    if (length >= sizeof address->sun_path) return -ENAMETOOLONG;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length);
    return (int)(offsetof(struct sockaddr_un, sun_path) + length + 1);
}

int clinux_address_tcp(clinux_scratch *scratch, const char *host, uint16_t port) {
    memset(scratch, 0, sizeof *scratch);
    struct sockaddr_in *four = (struct sockaddr_in *)scratch;
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return (int)sizeof *four;
    }
    memset(scratch, 0, sizeof *scratch);
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)scratch;
    if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        return (int)sizeof *six;
    }
    return -EINVAL;
}

int clinux_socket_open(const clinux_scratch *address) {
    const int family = ((const struct sockaddr *)address)->sa_family;
    int opened = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return opened < 0 ? -errno : opened;
}

int clinux_socket_bind(int socket, const clinux_scratch *address, int address_length) {
    const struct sockaddr *name = (const struct sockaddr *)address;
    const int on = 1;
    if (name->sa_family != AF_UNIX
        && setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) return -errno;
    return bind(socket, name, (socklen_t)address_length) == 0 ? 0 : -errno;
}

// The kernel lowers SOMAXCONN to net.core.somaxconn by itself.
int clinux_socket_listen(int socket) { return listen(socket, SOMAXCONN) == 0 ? 0 : -errno; }

int clinux_socket_connect(int socket, const clinux_scratch *address, int address_length) {
    const struct sockaddr *name = (const struct sockaddr *)address;
    return connect(socket, name, (socklen_t)address_length) == 0 ? 0 : -errno;
}

int clinux_descriptor_set_nonblocking(int descriptor) {
    const int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0) return -errno;
    return fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 ? 0 : -errno;
}

int clinux_descriptor_claim(int descriptor) {
    const int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0 || fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) != 0) return -errno;
    return fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 ? 0 : -errno;
}

int clinux_socket_set_stream_options(
    int socket, int idle_seconds, int interval_seconds, int probes) {
    const int on = 1;
    if (setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0
        || setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) != 0
        || setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_seconds, sizeof(int)) != 0
        || setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_seconds, sizeof(int)) != 0
        || setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(int)) != 0) return -errno;
    return 0;
}

int clinux_socket_is_local(int socket) {
    int family = 0;
    socklen_t length = sizeof family;
    if (getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &family, &length) != 0) return -errno;
    return family == AF_UNIX;
}

int clinux_socket_name(
    int socket, bool peer, char text[CLINUX_ADDRESS_TEXT_BYTE_COUNT], uint16_t *port) {
    struct sockaddr_storage storage;
    socklen_t length = sizeof storage;
    struct sockaddr *name = (struct sockaddr *)&storage;
    const int result =
        peer ? getpeername(socket, name, &length) : getsockname(socket, name, &length);
    if (result != 0) return -errno;
    const void *bytes;
    if (name->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&storage;
        bytes = &four->sin_addr;
        *port = ntohs(four->sin_port);
    } else if (name->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&storage;
        bytes = &six->sin6_addr;
        *port = ntohs(six->sin6_port);
    } else {
        return -EAFNOSUPPORT;
    }
    if (!inet_ntop(name->sa_family, bytes, text, CLINUX_ADDRESS_TEXT_BYTE_COUNT)) return -errno;
    return 0;
}

int clinux_socket_peer(int socket, int32_t *process, uint32_t *user) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return -errno;
    *process = credentials.pid;
    *user = credentials.uid;
    return 0;
}

int clinux_socket_is_tcp_connection(int socket) {
    struct stat status;
    if (fstat(socket, &status) != 0 || !S_ISSOCK(status.st_mode)) return 0;
    const int names[] = {SO_TYPE, SO_PROTOCOL, SO_ACCEPTCONN};
    const int wanted[] = {SOCK_STREAM, IPPROTO_TCP, 0};
    for (size_t index = 0; index < sizeof names / sizeof names[0]; index += 1) {
        int value = -1;
        socklen_t length = sizeof value;
        if (getsockopt(socket, SOL_SOCKET, names[index], &value, &length) != 0) return 0;
        if (value != wanted[index]) return 0;
    }
    char text[CLINUX_ADDRESS_TEXT_BYTE_COUNT];
    uint16_t port;
    return clinux_socket_name(socket, true, text, &port) == 0;
}

void clinux_socket_shutdown(int socket) { (void)shutdown(socket, SHUT_RDWR); }

int clinux_socket_pair(int descriptors[2]) {
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, descriptors) == 0 ? 0 : -errno;
}

void clinux_message_set(clinux_scratch *scratch, clinux_run first, clinux_run second) {
    message *m = (message *)scratch;
    memset(m, 0, sizeof *m);
    m->runs[0] = (struct iovec){.iov_base = first.start, .iov_len = first.count};
    m->runs[1] = (struct iovec){.iov_base = second.start, .iov_len = second.count};
    m->header.msg_iov = m->runs;
    m->header.msg_iovlen = second.count > 0 ? 2 : 1;
}

void clinux_message_expect(clinux_scratch *scratch) {
    message *m = (message *)scratch;
    m->header.msg_control = m->control.bytes;
    m->header.msg_controllen = sizeof m->control.bytes;
}

void clinux_message_attach(clinux_scratch *scratch, int descriptor) {
    message *m = (message *)scratch;
    clinux_message_expect(scratch);
    struct cmsghdr *control = CMSG_FIRSTHDR(&m->header);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(control), &descriptor, sizeof descriptor);
}

int clinux_datagram_send(const char *path, size_t path_length, clinux_run text, int passed) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path_length > sizeof address.sun_path) return -ENAMETOOLONG;
    memcpy(address.sun_path, path, path_length);
    if (path_length > 0 && path[0] == '@') address.sun_path[0] = 0;
    clinux_scratch scratch;
    clinux_message_set(&scratch, text, (clinux_run){0});
    if (passed >= 0) clinux_message_attach(&scratch, passed);
    message *m = (message *)&scratch;
    m->header.msg_name = &address;
    // It ends with the path: an abstract name is not NUL-terminated.
    m->header.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_length);
    const int opened = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (opened < 0) return -errno;
    const struct timeval patience = {.tv_sec = 1};
    (void)setsockopt(opened, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    const int result = sendmsg(opened, &m->header, MSG_NOSIGNAL) < 0 ? -errno : 0;
    close(opened);
    return result;
}

// CMSG_SPACE rounds up to 8 bytes, so a second descriptor may come along: it is closed. The kernel
// closes those that did not fit (MSG_CTRUNC).
int clinux_message_take(clinux_scratch *scratch) {
    message *m = (message *)scratch;
    int taken = -1;
    for (struct cmsghdr *control = CMSG_FIRSTHDR(&m->header); control;
         control = CMSG_NXTHDR(&m->header, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t index = 0; index < count; index += 1) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(control) + index * sizeof(int), sizeof descriptor);
            if (taken < 0) {
                taken = descriptor;
            } else {
                close(descriptor);
            }
        }
    }
    return taken;
}
