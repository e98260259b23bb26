// SPDX-License-Identifier: Apache-2.0
//
// What the files of the library share. Names start with kvsi_; only kvs_ names are exported.
//
//   keys, status      pure                     connection   open, back-off, fork, hello
//   encode, decode    pure (wire.h)            exchange     one request and its response
//   transport         bytes over a socket      put, get, inventory, lease, reserve   the verbs
//   mapping           shared memory            queue        the asynchronous form
#ifndef KVS_INTERNAL_H
#define KVS_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "CKernels.h"
#include "kvstore.h"
#include "wire.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>

enum {
    KVSI_ADDRESS_COUNT_MAXIMUM = 4,
    KVSI_RECEIVE_BUFFER_BYTE_COUNT = 4096,
    KVSI_IOVEC_COUNT_MAXIMUM = 64,
    KVSI_SLICE_BYTE_COUNT = 256 * 1024,  // hashed, then sent or copied while it is in the cache
    KVSI_DEADLINE_MILLISECONDS_DEFAULT = 1000,
    KVSI_BACK_OFF_MILLISECONDS_MINIMUM = 100,
    KVSI_BACK_OFF_MILLISECONDS_MAXIMUM = 5000,
};

#define KVSI_SHARED_PUT_BYTE_COUNT_DEFAULT ((uint64_t)256 * 1024)
#define KVSI_NANOSECONDS_PER_MILLISECOND ((uint64_t)1000000)

/// A point of CLOCK_MONOTONIC in nanoseconds.
typedef uint64_t kvsi_instant;

kvsi_instant kvsi_now(void);

// Shared memory -------------------------------------------------------------------------------

/// A region of the daemon's, mapped here. Held by the client and by each lease or reservation in
/// it, so that a reconnect does not pull memory away from under a reader.
struct kvsi_mapping {
    uint8_t *bytes;
    uint64_t byte_count;
    size_t holder_count;
};

/// Maps `byte_count` bytes of `descriptor`; NULL, with errno, unless the region has that size and
/// is sealed against shrinking. Does not close the descriptor.
struct kvsi_mapping *kvsi_mapping_open(int descriptor, uint64_t byte_count, bool writable);
void kvsi_mapping_hold(struct kvsi_mapping *mapping);
void kvsi_mapping_drop(struct kvsi_mapping *mapping);

// Client --------------------------------------------------------------------------------------

struct kvsi_address {
    struct sockaddr_storage bytes;
    socklen_t byte_count;
};

/// One byte in a page that the kernel clears in a forked child.
struct kvsi_fork_guard {
    volatile uint8_t *page;  // NULL where the kernel cannot do it: then the process id decides
    pid_t process_id;
};

bool kvsi_fork_guard_open(struct kvsi_fork_guard *guard);
bool kvsi_fork_guard_tripped(const struct kvsi_fork_guard *guard);
void kvsi_fork_guard_rearm(struct kvsi_fork_guard *guard);
void kvsi_fork_guard_close(struct kvsi_fork_guard *guard);

/// A put under way: what is hashed and how much is still to come.
struct kvsi_put_stream {
    bool is_active;
    bool head_is_sent;
    uint64_t left_byte_count;
    uint64_t request_id;
    kvsi_instant deadline;
    uint8_t head[KVSI_HEADER_BYTE_COUNT + KVSI_PUT_BODY_BYTE_COUNT];
    _Alignas(64) uint8_t hash[CKERNELS_XXH3_STATE_BYTE_COUNT];
};

struct kvs_client {
    // Configuration, fixed after kvs_open.
    struct kvsi_address addresses[KVSI_ADDRESS_COUNT_MAXIMUM];
    size_t address_count;
    char address_text[256];
    char namespace_name[KVSI_NAME_BYTE_COUNT_MAXIMUM + 1];
    char client_name[KVSI_NAME_BYTE_COUNT_MAXIMUM + 1];
    uint8_t token[KVSI_TOKEN_BYTE_COUNT_MAXIMUM];
    size_t token_byte_count;
    uint32_t deadline_milliseconds;
    uint32_t flags;
    uint64_t shared_put_byte_count;
    int cancel_descriptor;  // -1, or readable when calls shall give up (the queue's)

    struct kvsi_fork_guard fork_guard;

    // Connection.
    int socket;  // -1: none
    uint64_t connection_number;
    uint64_t next_request_id;
    struct kvsi_hello hello;
    bool has_hello;  // of this or an earlier connection: the secret is known
    struct kvsi_mapping *arena;
    struct kvsi_mapping *staging;
    int received_descriptor;  // -1, or one that came with the current response

    // Back-off.
    uint32_t failure_count;
    kvsi_instant no_connect_before;
    kvs_status failure_status;

    // Leases to give back, in the order they were.
    uint64_t released[KVSI_RELEASE_COUNT_MAXIMUM];
    size_t released_count;

    struct kvsi_put_stream put;
    char error_text[KVSI_ERROR_TEXT_BYTE_COUNT + 256];

    size_t receive_start;
    size_t receive_end;
    uint8_t receive_buffer[KVSI_RECEIVE_BUFFER_BYTE_COUNT];
    uint8_t request[KVSI_HEADER_BYTE_COUNT + KVSI_BODY_BYTE_COUNT_MAXIMUM];
    uint8_t response_body[KVSI_BODY_BYTE_COUNT_MAXIMUM];
};

/// Where encoders write the body of the next request.
static inline uint8_t *kvsi_request_body(kvs_client *client) {
    return client->request + KVSI_HEADER_BYTE_COUNT;
}

/// Notes why and returns `status`.
__attribute__((format(printf, 3, 4))) kvs_status kvsi_fail(kvs_client *client, kvs_status status,
                                                          const char *format, ...);

// Transport: bytes over the client's socket, bounded by a deadline ----------------------------

/// Connects to one address; the socket is nonblocking. -1 with errno otherwise.
int kvsi_transport_connect(kvs_client *client, const struct kvsi_address *address,
                           kvsi_instant deadline);
/// Sends everything; uses up `parts`.
kvs_status kvsi_transport_send(kvs_client *client, struct iovec *parts, size_t part_count,
                               kvsi_instant deadline);
/// Receives exactly `byte_count` bytes.
kvs_status kvsi_transport_receive(kvs_client *client, void *bytes, size_t byte_count,
                                  kvsi_instant deadline);
/// Receives `byte_count` bytes into the spans, which have room for them, and hashes them.
kvs_status kvsi_transport_receive_spans(kvs_client *client, const kvs_span *spans,
                                        size_t span_count, uint64_t byte_count, uint64_t *hash,
                                        kvsi_instant deadline);
/// Receives `byte_count` bytes and forgets them.
kvs_status kvsi_transport_discard(kvs_client *client, uint64_t byte_count, kvsi_instant deadline);
/// Whether the other side has closed, or has said something nobody asked for.
bool kvsi_transport_is_stale(kvs_client *client);

// Connection ----------------------------------------------------------------------------------

/// Starts a call: checks the state, sets `deadline`, forgets the last error, connects if needed.
kvs_status kvsi_begin(kvs_client *client, uint32_t deadline_milliseconds, kvsi_instant *deadline);
/// The same without connecting.
kvs_status kvsi_begin_locally(kvs_client *client, uint32_t deadline_milliseconds,
                              kvsi_instant *deadline);
/// Closes the socket and forgets what hung on it; with `failed`, the back-off counts it.
void kvsi_disconnect(kvs_client *client, bool failed);
/// The daemon answered: the back-off starts afresh.
void kvsi_note_success(kvs_client *client);
/// Whether memory is shared on the present connection.
bool kvsi_is_shared(const kvs_client *client);
/// How many keys fit a request with `fixed_byte_count` bytes before the keys.
size_t kvsi_batch_key_count(const kvs_client *client, size_t fixed_byte_count);

// Exchange ------------------------------------------------------------------------------------

/// Sends a request whose body lies at kvsi_request_body.
kvs_status kvsi_send_request(kvs_client *client, uint8_t verb, size_t body_byte_count,
                             kvsi_instant deadline, uint64_t *request_id);
/// Fills a header for a request; used where more than the body is sent.
void kvsi_make_header(kvs_client *client, uint8_t *header, const struct kvsi_request *request,
                      const uint8_t *body);
uint32_t kvsi_left_milliseconds(kvsi_instant deadline);
/// Receives a header and body; KVS_OK means only that the frame is good. A frame that answers
/// something else, or a broken one, closes the connection.
kvs_status kvsi_receive_frame(kvs_client *client, uint8_t verb, uint64_t request_id,
                              struct kvsi_response *response, kvsi_instant deadline);
/// Status of a frame with its error text noted; closes the connection where the status says so.
kvs_status kvsi_finish_frame(kvs_client *client, const struct kvsi_response *response);
/// A request without payload and its one response. KVS_OK: the body lies in `response_body`.
kvs_status kvsi_exchange(kvs_client *client, uint8_t verb, size_t body_byte_count,
                         size_t *response_byte_count, kvsi_instant deadline);
/// Notes a body that breaks the protocol and closes the connection.
kvs_status kvsi_refuse_body(kvs_client *client, const char *verb);

// Shared by verbs -----------------------------------------------------------------------------

/// Copies from the parts to `bytes` and returns the XXH3-64 of what was copied.
uint64_t kvsi_copy_hashed_in(uint8_t *bytes, const kvs_const_span *parts, size_t part_count);
/// Copies `byte_count` bytes to the spans, which have room; returns the XXH3-64 of the copy.
uint64_t kvsi_copy_hashed_out(const kvs_span *spans, size_t span_count, const uint8_t *bytes,
                              uint64_t byte_count);
/// Sum of the spans' sizes; false when it overflows or a span with bytes has no address.
bool kvsi_span_byte_count(const kvs_span *spans, size_t span_count, uint64_t *byte_count);
bool kvsi_part_byte_count(const kvs_const_span *parts, size_t part_count, uint64_t *byte_count);

/// One batch of LEASE, with the leases to give back riding along.
kvs_status kvsi_lease_batch(kvs_client *client, const kvs_key *keys, size_t key_count,
                            uint32_t lease_milliseconds, kvs_lease *leases,
                            kvsi_instant deadline);
bool kvsi_lease_holds(kvs_client *client, const kvs_lease *lease);
kvs_status kvsi_reserve(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                        const kvs_put_options *options, kvs_reservation *reservation,
                        kvsi_instant deadline);
kvs_status kvsi_commit(kvs_client *client, kvs_reservation *reservation, uint64_t checksum,
                       kvsi_instant deadline);

/// The canonical form of a layout description, for the caller to free.
kvs_status kvsi_canonical_description(const kvs_layout_field *fields, size_t field_count,
                                      char **text, size_t *text_byte_count);
/// Key of a chunk that the codec needs: "l1" and a layout id, its description; "f1" and a hash,
/// that profile; "f2" and a layout id, which profile to use. `name` has 16 bytes.
kvs_status kvsi_derive_codec_key(const uint8_t *secret, const char prefix[2], const uint8_t *name,
                                 kvs_key *key);

/// kvs_put with a level and a codec.
kvs_status kvsi_put_encoded(kvs_client *client, const kvs_key *key, const kvs_const_span *parts,
                            size_t part_count, const kvs_put_options *options,
                            uint32_t deadline_milliseconds);
/// How many bytes a container decodes to; KVS_NOT_DECODED when the codec refuses it.
kvs_status kvsi_decoded_byte_count(kvs_client *client, const kvs_codec *codec,
                                   const uint8_t *container, uint64_t container_byte_count,
                                   uint64_t *byte_count);
/// Decodes a container to the spans, which have room for its `byte_count` bytes.
kvs_status kvsi_decode_to_spans(kvs_client *client, const kvs_codec *codec,
                                const uint8_t *container, uint64_t container_byte_count,
                                const kvs_span *spans, size_t span_count, uint64_t byte_count);

#endif
