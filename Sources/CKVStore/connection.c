// SPDX-License-Identifier: Apache-2.0
//
// The life of a client: open, connect when first needed, back off from a daemon that is dead,
// start afresh in a forked child, close.
#include "internal.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

kvs_status kvsi_fail(kvs_client *client, kvs_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(client->error_text, sizeof client->error_text, format, arguments);
    va_end(arguments);
    return status;
}

const char *kvs_last_error_text(const kvs_client *client) {
    return client != NULL ? client->error_text : "no client";
}

// Address and options -----------------------------------------------------------------------------

static kvs_status parse_unix_address(kvs_client *client, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t byte_count = strlen(path);
    if (byte_count == 0 || byte_count >= sizeof address.sun_path) {
        return KVS_INVALID_ARGUMENT;
    }
    memcpy(address.sun_path, path, byte_count);
    memcpy(&client->addresses[0].bytes, &address, sizeof address);
    client->addresses[0].byte_count =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + byte_count + 1);
    client->address_count = 1;
    return KVS_OK;
}

static kvs_status resolve(kvs_client *client, const char *host, const char *port) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, port, &hints, &found) != 0) {
        hints.ai_flags = AI_NUMERICSERV;
        if (getaddrinfo(host, port, &hints, &found) != 0) {
            return KVS_CANNOT_CONNECT;
        }
    }
    for (struct addrinfo *entry = found;
         entry != NULL && client->address_count < KVSI_ADDRESS_COUNT_MAXIMUM;
         entry = entry->ai_next) {
        if (entry->ai_addrlen <= sizeof client->addresses[0].bytes) {
            struct kvsi_address *address = &client->addresses[client->address_count];
            memcpy(&address->bytes, entry->ai_addr, entry->ai_addrlen);
            address->byte_count = entry->ai_addrlen;
            client->address_count += 1;
        }
    }
    freeaddrinfo(found);
    return client->address_count != 0 ? KVS_OK : KVS_CANNOT_CONNECT;
}

/// "host:port" or "[::1]:port".
static kvs_status parse_tcp_address(kvs_client *client, const char *text) {
    char host[sizeof client->address_text];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text || colon[1] == '\0') {
        return KVS_INVALID_ARGUMENT;
    }
    size_t byte_count = (size_t)(colon - text);
    if (text[0] == '[' && text[byte_count - 1] == ']' && byte_count > 2) {
        text += 1;
        byte_count -= 2;
    } else if (memchr(text, ':', byte_count) != NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    memcpy(host, text, byte_count);  // shorter than address_text, checked before
    host[byte_count] = '\0';
    return resolve(client, host, colon + 1);
}

static kvs_status parse_address(kvs_client *client, const char *address) {
    size_t byte_count = strlen(address);
    if (byte_count >= sizeof client->address_text) {
        return KVS_INVALID_ARGUMENT;
    }
    memcpy(client->address_text, address, byte_count + 1);
    if (strncmp(address, "unix:", 5) == 0) {
        return parse_unix_address(client, address + 5);
    }
    if (strncmp(address, "tcp:", 4) == 0) {
        return parse_tcp_address(client, address + 4);
    }
    return KVS_INVALID_ARGUMENT;
}

static bool copy_name(char *destination, const char *name, const char *otherwise) {
    const char *used = name != NULL ? name : otherwise;
    size_t byte_count = strlen(used);
    if (byte_count > KVSI_NAME_BYTE_COUNT_MAXIMUM) {
        return false;
    }
    memcpy(destination, used, byte_count + 1);
    return true;
}

static kvs_status apply_options(kvs_client *client, const kvs_options *given) {
    kvs_options options = KVS_OPTIONS_INIT;
    if (given != NULL) {
        if (given->size < offsetof(kvs_options, namespace_name)) {
            return KVS_INVALID_ARGUMENT;
        }
        memcpy(&options, given, given->size < sizeof options ? given->size : sizeof options);
    }
    if (!copy_name(client->namespace_name, options.namespace_name, "default") ||
        !copy_name(client->client_name, options.client_name, "libkvstore") ||
        options.token_byte_count > KVSI_TOKEN_BYTE_COUNT_MAXIMUM ||
        (options.token == NULL && options.token_byte_count != 0) ||
        options.deadline_milliseconds > KVSI_DEADLINE_MILLISECONDS_MAXIMUM ||
        (options.flags & ~KVS_WITHOUT_SHARED_MEMORY) != 0) {
        return KVS_INVALID_ARGUMENT;
    }
    if (options.token_byte_count != 0) {
        memcpy(client->token, options.token, options.token_byte_count);
        client->token_byte_count = options.token_byte_count;
    }
    client->flags = options.flags;
    client->deadline_milliseconds = options.deadline_milliseconds != 0
                                        ? options.deadline_milliseconds
                                        : KVSI_DEADLINE_MILLISECONDS_DEFAULT;
    client->shared_put_byte_count = options.shared_put_byte_count != 0
                                        ? options.shared_put_byte_count
                                        : KVSI_SHARED_PUT_BYTE_COUNT_DEFAULT;
    return KVS_OK;
}

kvs_status kvs_open(const char *address, const kvs_options *options, kvs_client **client) {
    if (address == NULL || client == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    *client = NULL;
    void *memory = NULL;
    if (posix_memalign(&memory, _Alignof(kvs_client), sizeof(kvs_client)) != 0) {
        return KVS_OUT_OF_MEMORY;
    }
    kvs_client *opened = memory;
    memset(opened, 0, offsetof(kvs_client, receive_buffer));  // the buffers stay untouched
    opened->socket = -1;
    opened->received_descriptor = -1;
    opened->cancel_descriptor = -1;
    kvs_status status = apply_options(opened, options);
    if (status == KVS_OK) {
        status = parse_address(opened, address);
    }
    if (status == KVS_OK && !kvsi_fork_guard_open(&opened->fork_guard)) {
        status = KVS_OUT_OF_MEMORY;
    }
    if (status != KVS_OK) {
        free(opened);
        return status;
    }
    *client = opened;
    return KVS_OK;
}

void kvs_close(kvs_client *client) {
    if (client == NULL) {
        return;
    }
    kvsi_disconnect(client, false);
    kvsi_fork_guard_close(&client->fork_guard);
    memset(client->token, 0, sizeof client->token);
    free(client);
}

// Connecting --------------------------------------------------------------------------------------

static void drop_received_descriptor(kvs_client *client) {
    if (client->received_descriptor >= 0) {
        (void)close(client->received_descriptor);
        client->received_descriptor = -1;
    }
}

/// After the first loss of a good connection the next call may try at once; then it takes longer
/// and longer, spread a little so that many clients do not come back in step.
static void count_failure(kvs_client *client, uint32_t at_least) {
    client->failure_count += client->failure_count < 32 ? 1 : 0;
    if (client->failure_count < at_least) {
        client->failure_count = at_least;
    }
    kvsi_instant now = kvsi_now();
    uint64_t milliseconds = 0;
    if (client->failure_count >= 2) {
        uint32_t doublings = client->failure_count - 2;
        milliseconds = (uint64_t)KVSI_BACK_OFF_MILLISECONDS_MINIMUM
                       << (doublings < 6 ? doublings : 6);
        if (milliseconds > KVSI_BACK_OFF_MILLISECONDS_MAXIMUM) {
            milliseconds = KVSI_BACK_OFF_MILLISECONDS_MAXIMUM;
        }
        milliseconds += milliseconds * (now / 1000 % 25) / 100;
    }
    client->no_connect_before = now + milliseconds * KVSI_NANOSECONDS_PER_MILLISECOND;
}

void kvsi_disconnect(kvs_client *client, bool failed) {
    if (client->socket >= 0) {
        if (!kvsi_fork_guard_tripped(&client->fork_guard)) {
            // A forked child may hold the descriptor too: shutdown ends the connection for sure.
            (void)shutdown(client->socket, SHUT_RDWR);
        }
        (void)close(client->socket);
        client->socket = -1;
        client->connection_number += 1;
        if (failed) {
            client->failure_status = KVS_CONNECTION_LOST;
            count_failure(client, 1);
        }
    }
    drop_received_descriptor(client);
    kvsi_mapping_drop(client->arena);
    kvsi_mapping_drop(client->staging);
    client->arena = NULL;
    client->staging = NULL;
    client->released_count = 0;
    client->receive_start = 0;
    client->receive_end = 0;
    client->put.is_active = false;
}

void kvsi_note_success(kvs_client *client) { client->failure_count = 0; }

static kvs_status open_socket(kvs_client *client, kvsi_instant deadline) {
    int error = 0;
    for (size_t index = 0; index < client->address_count; index += 1) {
        kvsi_instant now = kvsi_now();
        uint64_t left = deadline > now ? deadline - now : 0;
        kvsi_instant share = now + left / (client->address_count - index);
        client->socket = kvsi_transport_connect(client, &client->addresses[index], share);
        if (client->socket >= 0) {
            client->connection_number += 1;
            return KVS_OK;
        }
        error = errno;
    }
    if (error == ECANCELED) {
        return kvsi_fail(client, KVS_CONNECTION_LOST, "%s: given up", client->address_text);
    }
    client->failure_status =
        error == ETIMEDOUT ? KVS_DEADLINE_EXCEEDED : KVS_CANNOT_CONNECT;
    count_failure(client, 2);
    return kvsi_fail(client, client->failure_status,
                     "cannot connect to %s: %s; is kvstored running, and does it listen there?",
                     client->address_text, strerror(error));
}

static void accept_arena(kvs_client *client, uint64_t wanted_features) {
    struct kvsi_hello *hello = &client->hello;
    hello->granted_features &= wanted_features;
    if ((hello->granted_features & KVSI_FEATURE_SHARED_MEMORY) != 0 &&
        client->received_descriptor >= 0) {
        // If the region cannot be mapped the socket serves as well.
        client->arena =
            kvsi_mapping_open(client->received_descriptor, hello->arena_byte_count, false);
    }
    drop_received_descriptor(client);
}

static kvs_status say_hello(kvs_client *client, kvsi_instant deadline) {
    bool may_share = client->addresses[0].bytes.ss_family == AF_UNIX &&
                     (client->flags & KVS_WITHOUT_SHARED_MEMORY) == 0;
    struct kvsi_hello_request request = {
        .wanted_features = may_share ? KVSI_FEATURE_SHARED_MEMORY : 0,
        .namespace_name = client->namespace_name,
        .token = client->token,
        .token_byte_count = client->token_byte_count,
        .client_name = client->client_name,
    };
    size_t body_byte_count = kvsi_encode_hello(kvsi_request_body(client), &request);
    size_t response_byte_count = 0;
    uint32_t failure_count = client->failure_count;
    kvs_status status =
        kvsi_exchange(client, KVSI_HELLO, body_byte_count, &response_byte_count, deadline);
    struct kvsi_hello hello;
    if (status == KVS_OK &&
        !kvsi_decode_hello(client->response_body, response_byte_count, &hello)) {
        status = kvsi_refuse_body(client, "HELLO");
    }
    if (status != KVS_OK) {
        kvsi_disconnect(client, false);
        client->failure_status = status;
        client->failure_count = failure_count;
        count_failure(client, 2);
        return status;
    }
    client->hello = hello;
    client->has_hello = true;
    accept_arena(client, request.wanted_features);
    return KVS_OK;
}

static kvs_status ensure_connected(kvs_client *client, kvsi_instant deadline) {
    if (client->socket >= 0 && kvsi_transport_is_stale(client)) {
        kvsi_disconnect(client, true);
    }
    if (client->socket >= 0) {
        return KVS_OK;
    }
    kvsi_instant now = kvsi_now();
    if (client->failure_count != 0 && now < client->no_connect_before) {
        uint64_t left = (client->no_connect_before - now) / KVSI_NANOSECONDS_PER_MILLISECOND;
        return kvsi_fail(client,
                         client->failure_status == KVS_UNAUTHORIZED ? KVS_UNAUTHORIZED
                                                                    : KVS_CANNOT_CONNECT,
                         "%s: not tried again for %llu ms after: %s", client->address_text,
                         (unsigned long long)left + 1, kvs_status_text(client->failure_status));
    }
    kvs_status status = open_socket(client, deadline);
    return status == KVS_OK ? say_hello(client, deadline) : status;
}

static void start_afresh_in_child(kvs_client *client) {
    kvsi_disconnect(client, false);
    client->connection_number += 1;
    client->failure_count = 0;
    kvsi_fork_guard_rearm(&client->fork_guard);
}

kvs_status kvsi_begin_locally(kvs_client *client, uint32_t deadline_milliseconds,
                              kvsi_instant *deadline) {
    if (client == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    uint64_t milliseconds =
        deadline_milliseconds != 0 ? deadline_milliseconds : client->deadline_milliseconds;
    if (milliseconds > KVSI_DEADLINE_MILLISECONDS_MAXIMUM) {
        milliseconds = KVSI_DEADLINE_MILLISECONDS_MAXIMUM;
    }
    *deadline = kvsi_now() + milliseconds * KVSI_NANOSECONDS_PER_MILLISECOND;
    client->error_text[0] = '\0';
    if (kvsi_fork_guard_tripped(&client->fork_guard)) {
        start_afresh_in_child(client);
    }
    if (client->put.is_active) {
        return kvsi_fail(client, KVS_WRONG_STATE,
                         "a put is under way: end it with kvs_put_finish or kvs_put_cancel");
    }
    return KVS_OK;
}

kvs_status kvsi_begin(kvs_client *client, uint32_t deadline_milliseconds, kvsi_instant *deadline) {
    kvs_status status = kvsi_begin_locally(client, deadline_milliseconds, deadline);
    return status == KVS_OK ? ensure_connected(client, *deadline) : status;
}

bool kvsi_is_shared(const kvs_client *client) { return client->arena != NULL; }

size_t kvsi_batch_key_count(const kvs_client *client, size_t fixed_byte_count) {
    size_t body_limit = KVSI_BODY_BYTE_COUNT_MAXIMUM;
    if (client->hello.body_byte_count_limit < body_limit) {
        body_limit = client->hello.body_byte_count_limit;
    }
    size_t count = body_limit > fixed_byte_count
                       ? (body_limit - fixed_byte_count) / KVS_KEY_BYTE_COUNT
                       : 1;
    count = count < client->hello.key_count_limit ? count : client->hello.key_count_limit;
    count = count < KVSI_KEY_COUNT_MAXIMUM ? count : KVSI_KEY_COUNT_MAXIMUM;
    return count != 0 ? count : 1;
}
