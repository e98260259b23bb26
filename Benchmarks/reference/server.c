// SPDX-License-Identifier: Apache-2.0
//
// The reference: one blocking thread per connection, plain send and recv between the socket and an
// arena that is larger than the last cache. It shows what the machine's sockets allow, with no
// store behind them.
#include "bench.h"
#include "wire.h"

#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    THREAD_STACK_BYTE_COUNT = 128 << 10,
    LIFETIME_SECONDS_DEFAULT = 3600,  // a forgotten server ends by itself
};

static struct shared_arena arena;

static bool request_fits(const struct reference_request *request) {
    return request->arena_offset <= arena.byte_count &&
           request->value_bytes <= arena.byte_count - request->arena_offset;
}

static bool answer(int socket, const struct reference_request *request) {
    struct reference_reply reply = {.status = REFERENCE_OK,
                                    .value_bytes = request->value_bytes,
                                    .arena_offset = request->arena_offset};
    uint8_t *place = arena.bytes + request->arena_offset;
    switch (request->operation) {
    case REFERENCE_PING:
    case REFERENCE_LEASE: return send_exactly(socket, &reply, sizeof reply);
    case REFERENCE_GET: {
        struct iovec pieces[2] = {{&reply, sizeof reply}, {place, request->value_bytes}};
        return send_pieces(socket, pieces, 2);
    }
    case REFERENCE_PUT:
        return receive_exactly(socket, place, request->value_bytes) &&
               send_exactly(socket, &reply, sizeof reply);
    case REFERENCE_ARENA:
        return send_with_descriptor(socket, &reply, sizeof reply, arena.descriptor);
    default: return false;
    }
}

static void *serve_connection(void *argument) {
    const int socket = (int)(intptr_t)argument;
    struct reference_request request;
    while (receive_exactly(socket, &request, sizeof request)) {
        if (!request_fits(&request)) {
            const struct reference_reply refusal = {.status = REFERENCE_REFUSED};
            (void)send_exactly(socket, &refusal, sizeof refusal);
            break;
        }
        if (!answer(socket, &request)) break;
    }
    close(socket);
    return NULL;
}

static void *accept_connections(void *argument) {
    const int listener = (int)(intptr_t)argument;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTE_COUNT);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (;;) {
        const int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (socket < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            fail("accept: %s", strerror(errno));
        }
        const int on = 1;
        (void)setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pthread_t thread;
        if (pthread_create(&thread, &attributes, serve_connection, (void *)(intptr_t)socket) != 0) {
            close(socket);
        }
    }
    return NULL;
}

static void start_listener(const struct endpoint *endpoint) {
    const int listener = socket_listen(endpoint);
    if (listener < 0) fail("cannot listen: %s", strerror(errno));
    pthread_t thread;
    if (pthread_create(&thread, NULL, accept_connections, (void *)(intptr_t)listener) != 0) {
        fail("cannot start the accepting thread");
    }
}

int main(int argument_count, char **arguments) {
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"unix-socket", required_argument, NULL, 'u'},
        {"memory-mebibytes", required_argument, NULL, 'm'},
        {"lifetime-seconds", required_argument, NULL, 'l'},
        {NULL, 0, NULL, 0},
    };
    struct endpoint internet = {.address = "127.0.0.1"}, local = {0};
    size_t memory_mebibytes = 512;
    unsigned lifetime_seconds = LIFETIME_SECONDS_DEFAULT;
    int option;
    while ((option = getopt_long(argument_count, arguments, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': internet.port = (uint16_t)strtoul(optarg, NULL, 10); break;
        case 'u': local.unix_path = optarg; break;
        case 'm': memory_mebibytes = strtoul(optarg, NULL, 10); break;
        case 'l': lifetime_seconds = (unsigned)strtoul(optarg, NULL, 10); break;
        default:
            fail("usage: reference-server [--port N] [--unix-socket PATH] [--memory-mebibytes N]"
                 " [--lifetime-seconds N]");
        }
    }
    if (memory_mebibytes == 0 || memory_mebibytes > 65536)
        fail("--memory-mebibytes takes 1 to 65536");
    if (internet.port == 0 && local.unix_path == NULL) fail("give --port, --unix-socket or both");
    signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    alarm(lifetime_seconds);
    arena = arena_create(memory_mebibytes << 20);
    if (internet.port != 0) start_listener(&internet);
    if (local.unix_path != NULL) start_listener(&local);
    printf("ready, arena of %zu MiB, %s\n", memory_mebibytes, arena.backing);
    fflush(stdout);
    for (;;)
        pause();
}
