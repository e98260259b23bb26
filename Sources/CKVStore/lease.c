// SPDX-License-Identifier: Apache-2.0
//
// Shared memory: reading chunks in place under leases, writing them in place through reservations.
#include "internal.h"

#include <string.h>
#include <unistd.h>

static kvs_status fail_unshared(kvs_client *client) {
    return kvsi_fail(client, KVS_UNSUPPORTED,
                     "%s: memory is not shared on this connection; connect by unix: to a daemon "
                     "that shares its arena, or use kvs_get and kvs_put",
                     client->address_text);
}

// Leases ------------------------------------------------------------------------------------------

kvs_status kvsi_lease_batch(kvs_client *client, const kvs_key *keys, size_t key_count,
                            uint32_t lease_milliseconds, kvs_lease *leases,
                            kvsi_instant deadline) {
    size_t byte_count = 0;
    size_t released_count = client->released_count;
    size_t body_byte_count =
        kvsi_encode_lease(kvsi_request_body(client), keys, key_count, client->released,
                          released_count, lease_milliseconds);
    client->released_count = 0;
    kvs_status status = kvsi_exchange(client, KVSI_LEASE, body_byte_count, &byte_count, deadline);
    if (status != KVS_OK) {
        return status;
    }
    if (client->arena == NULL ||
        !kvsi_decode_lease(client->response_body, byte_count, key_count, client->arena->bytes,
                           client->arena->byte_count, leases)) {
        return kvsi_refuse_body(client, "LEASE");
    }
    for (size_t index = 0; index < key_count; index += 1) {
        leases[index].connection_number = client->connection_number;
        if (leases[index].status == KVS_OK) {
            leases[index].mapping = client->arena;
            kvsi_mapping_hold(client->arena);
        }
    }
    return KVS_OK;
}

kvs_status kvs_lease_acquire(kvs_client *client, const kvs_key *keys, size_t key_count,
                             uint32_t lease_milliseconds, kvs_lease *leases,
                             uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    if (key_count != 0 && (keys == NULL || leases == NULL)) {
        return KVS_INVALID_ARGUMENT;
    }
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    if (status == KVS_OK && !kvsi_is_shared(client)) {
        status = fail_unshared(client);
    }
    size_t first = 0;
    while (status == KVS_OK && first < key_count) {
        size_t limit = kvsi_batch_key_count(client, 16 + 8 * KVSI_RELEASE_COUNT_MAXIMUM);
        size_t count = key_count - first < limit ? key_count - first : limit;
        status = kvsi_lease_batch(client, keys + first, count, lease_milliseconds, leases + first,
                                  deadline);
        first += status == KVS_OK ? count : 0;
    }
    if (status != KVS_OK) {
        if (client != NULL) {
            kvs_lease_release(client, leases, first);
        }
        for (size_t index = 0; index < key_count; index += 1) {
            leases[index] = (kvs_lease){.status = status};
        }
    }
    return status;
}

bool kvsi_lease_holds(kvs_client *client, const kvs_lease *lease) {
    return lease->status == KVS_OK && lease->mapping != NULL && client->socket >= 0 &&
           !kvsi_fork_guard_tripped(&client->fork_guard) &&
           lease->connection_number == client->connection_number &&
           (client->put.is_active || !kvsi_transport_is_stale(client)) &&
           kvsi_now() < lease->expiry_nanoseconds;
}

int kvs_lease_still_valid(kvs_client *client, const kvs_lease *lease) {
    return client != NULL && lease != NULL && kvsi_lease_holds(client, lease);
}

kvs_status kvs_copy_out(kvs_client *client, const kvs_lease *lease,
                        const kvs_destination *destination) {
    uint64_t capacity = 0;
    if (client == NULL || lease == NULL || destination == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    client->error_text[0] = '\0';
    if (lease->status != KVS_OK || lease->mapping == NULL) {
        return kvsi_fail(client, KVS_NO_LEASE, "this key was not leased, or was given back");
    }
    if (!kvsi_span_byte_count(destination->spans, destination->span_count, &capacity)) {
        return kvsi_fail(client, KVS_INVALID_ARGUMENT, "a span has bytes but no address");
    }
    if (capacity < lease->byte_count) {
        return kvsi_fail(client, KVS_DESTINATION_TOO_SMALL, "the chunk has %llu bytes",
                         (unsigned long long)lease->byte_count);
    }
    uint64_t checksum = kvsi_copy_hashed_out(destination->spans, destination->span_count,
                                             lease->bytes, lease->byte_count);
    if (checksum == lease->checksum) {
        return KVS_OK;
    }
    return kvsi_lease_holds(client, lease)
               ? kvsi_fail(client, KVS_DAMAGED, "the chunk does not match its checksum")
               : kvsi_fail(client, KVS_LEASE_ENDED, "the lease ended before the copy was made");
}

void kvs_lease_release(kvs_client *client, kvs_lease *leases, size_t lease_count) {
    if (client == NULL || leases == NULL) {
        return;
    }
    for (size_t index = 0; index < lease_count; index += 1) {
        kvs_lease *lease = &leases[index];
        if (lease->status != KVS_OK || lease->mapping == NULL) {
            continue;
        }
        // What is not told for lack of room runs out by itself.
        if (client->socket >= 0 && lease->connection_number == client->connection_number &&
            client->released_count < KVSI_RELEASE_COUNT_MAXIMUM) {
            client->released[client->released_count] = lease->lease_id;
            client->released_count += 1;
        }
        kvsi_mapping_drop(lease->mapping);
        *lease = (kvs_lease){.status = KVS_NO_LEASE};
    }
}

kvs_status kvs_release_now(kvs_client *client, uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    size_t byte_count = 0;
    uint32_t released_count = 0;
    kvs_status status = kvsi_begin_locally(client, deadline_milliseconds, &deadline);
    if (status != KVS_OK || client->socket < 0 || client->released_count == 0) {
        return status;
    }
    size_t body_byte_count =
        kvsi_encode_release(kvsi_request_body(client), client->released, client->released_count);
    client->released_count = 0;
    status = kvsi_exchange(client, KVSI_RELEASE, body_byte_count, &byte_count, deadline);
    if (status == KVS_OK &&
        !kvsi_decode_release(client->response_body, byte_count, &released_count)) {
        status = kvsi_refuse_body(client, "RELEASE");
    }
    return status;
}

// Reservations ------------------------------------------------------------------------------------

/// Maps the staging region that came with a response, if one came.
static kvs_status accept_staging(kvs_client *client, const struct kvsi_reserve *reserve) {
    if (client->received_descriptor >= 0) {
        struct kvsi_mapping *mapping =
            kvsi_mapping_open(client->received_descriptor, reserve->staging_byte_count, true);
        (void)close(client->received_descriptor);
        client->received_descriptor = -1;
        if (mapping == NULL) {
            return kvsi_fail(client, KVS_SYSTEM, "the staging region cannot be mapped");
        }
        kvsi_mapping_drop(client->staging);
        client->staging = mapping;
    }
    if (client->staging == NULL || client->staging->byte_count < reserve->staging_byte_count) {
        return kvsi_refuse_body(client, "RESERVE");
    }
    return KVS_OK;
}

kvs_status kvsi_reserve(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                        const kvs_put_options *options, kvs_reservation *reservation,
                        kvsi_instant deadline) {
    size_t response_byte_count = 0;
    struct kvsi_reserve reserve;
    *reservation = (kvs_reservation){.bytes = NULL};
    size_t body_byte_count =
        kvsi_encode_put(kvsi_request_body(client), key, byte_count, options);
    kvs_status status =
        kvsi_exchange(client, KVSI_RESERVE, body_byte_count, &response_byte_count, deadline);
    if (status != KVS_OK) {
        return status;
    }
    if (!kvsi_decode_reserve(client->response_body, response_byte_count, byte_count, &reserve)) {
        return kvsi_refuse_body(client, "RESERVE");
    }
    status = accept_staging(client, &reserve);
    if (status != KVS_OK) {
        return status;
    }
    kvsi_mapping_hold(client->staging);
    *reservation = (kvs_reservation){
        .bytes = client->staging->bytes + reserve.offset,
        .byte_count = byte_count,
        .expiry_nanoseconds = reserve.expiry_nanoseconds,
        .reservation_id = reserve.reservation_id,
        .connection_number = client->connection_number,
        .mapping = client->staging,
    };
    return KVS_OK;
}

static void forget_reservation(kvs_reservation *reservation) {
    kvsi_mapping_drop(reservation->mapping);
    *reservation = (kvs_reservation){.bytes = NULL};
}

kvs_status kvsi_commit(kvs_client *client, kvs_reservation *reservation, uint64_t checksum,
                       kvsi_instant deadline) {
    size_t byte_count = 0;
    size_t body_byte_count = kvsi_encode_commit(kvsi_request_body(client),
                                                reservation->reservation_id, checksum);
    forget_reservation(reservation);
    return kvsi_exchange(client, KVSI_COMMIT, body_byte_count, &byte_count, deadline);
}

kvs_status kvs_reserve(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                       const kvs_put_options *options, kvs_reservation *reservation,
                       uint32_t deadline_milliseconds) {
    static const kvs_put_options default_options;
    kvsi_instant deadline;
    options = options != NULL ? options : &default_options;
    if (key == NULL || reservation == NULL || byte_count == 0 ||
        (options->flags & ~(KVS_DURABLE | KVS_POSITIONED)) != 0 || options->codec != NULL ||
        options->level > KVS_LEVEL_Q4) {
        return KVS_INVALID_ARGUMENT;
    }
    *reservation = (kvs_reservation){.bytes = NULL};
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    if (status != KVS_OK) {
        return status;
    }
    if (!kvsi_is_shared(client)) {
        return fail_unshared(client);
    }
    if (byte_count > client->hello.staging_byte_count_limit) {
        return kvsi_fail(client, KVS_TOO_LARGE,
                         "%llu bytes are more than can be reserved; use kvs_put",
                         (unsigned long long)byte_count);
    }
    return kvsi_reserve(client, key, byte_count, options, reservation, deadline);
}

/// Whether the reservation can still be ended by a request; forgets it otherwise.
static kvs_status check_reservation(kvs_client *client, kvs_reservation *reservation,
                                    uint32_t deadline_milliseconds, kvsi_instant *deadline) {
    if (client == NULL || reservation == NULL || reservation->mapping == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    bool forked = kvsi_fork_guard_tripped(&client->fork_guard);
    kvs_status status = kvsi_begin_locally(client, deadline_milliseconds, deadline);
    if (status == KVS_WRONG_STATE) {
        return status;
    }
    if (forked) {
        status = kvsi_fail(client, KVS_FORKED, "the reservation belongs to the parent process");
    } else if (client->socket < 0 ||
               client->connection_number != reservation->connection_number) {
        status = kvsi_fail(client, KVS_NO_LEASE,
                           "the connection was lost, and the reservation with it");
    }
    if (status != KVS_OK) {
        forget_reservation(reservation);
    }
    return status;
}

kvs_status kvs_commit(kvs_client *client, kvs_reservation *reservation,
                      uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    kvs_status status =
        check_reservation(client, reservation, deadline_milliseconds, &deadline);
    if (status != KVS_OK) {
        return status;
    }
    uint64_t checksum = ckernels_xxh3_64(reservation->bytes, (size_t)reservation->byte_count);
    return kvsi_commit(client, reservation, checksum, deadline);
}

kvs_status kvs_abort(kvs_client *client, kvs_reservation *reservation,
                     uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    size_t byte_count = 0;
    kvs_status status =
        check_reservation(client, reservation, deadline_milliseconds, &deadline);
    if (status != KVS_OK) {
        return status;
    }
    size_t body_byte_count =
        kvsi_encode_abort(kvsi_request_body(client), reservation->reservation_id);
    forget_reservation(reservation);
    return kvsi_exchange(client, KVSI_ABORT, body_byte_count, &byte_count, deadline);
}
