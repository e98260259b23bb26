// SPDX-License-Identifier: Apache-2.0
//
// libkvstore: the C client of kvstored, a cache for the KV tensors of inference engines.
//
// Plain C11. The library starts no thread (except kvs_queue_open, which is asked to), installs no
// signal handler, keeps no global state and prints nothing. It never waits longer than the deadline
// of a call, with one named exception: kvs_open may ask the resolver for a host name.
//
// Rules that hold for every function:
//   - A client is used by one thread at a time. Several clients are independent of each other.
//   - A call returns KVS_OK or says why not; kvs_last_error_text says what to do about it.
//   - A cache may always miss. Whatever the status, an engine can compute the chunk itself.
//   - `deadline_milliseconds` bounds the whole call; 0 means the default of the client. A daemon
//     that is dead costs one deadline at most, afterwards calls fail at once (KVS_CANNOT_CONNECT)
//     and the connection is tried again after 100 ms, doubling up to 5 s.
//   - Memory belongs to the caller, except where a lease or a reservation says otherwise.
//   - After fork(2) the child may go on using a client: it opens a connection of its own at the
//     first call. Leases, reservations and queues stay with the parent.
#ifndef KVSTORE_H
#define KVSTORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Raised when a program compiled against this header could not use an older library.
#define KVS_ABI_VERSION 1u

/// Version of the interface of the library that is loaded; compare with KVS_ABI_VERSION.
uint32_t kvs_abi_version(void);

// ---------------------------------------------------------------------------------------------
// Status

/// Outcome of a call or of one key. Numbers below 1000 come from the protocol, those from 1000 from
/// this library. Numbers are never reused.
typedef enum kvs_status {
    KVS_OK = 0,
    KVS_NOT_FOUND = 1,
    KVS_EXISTS = 2,              ///< stored already: chunks are immutable, nothing was replaced
    KVS_BUSY = 3,                ///< no room or no slot; nothing was queued
    KVS_TOO_LARGE = 4,           ///< over the daemon's chunk limit
    KVS_DEADLINE_EXCEEDED = 5,   ///< here or in the daemon
    KVS_CHECKSUM_MISMATCH = 6,   ///< the daemon received damaged bytes; nothing was stored
    KVS_UNAUTHORIZED = 7,        ///< wrong namespace or token
    KVS_UNSUPPORTED = 8,         ///< not offered by this daemon, or not on this connection
    KVS_MALFORMED = 9,           ///< the daemon did not understand us: a defect
    KVS_VERSION_MISMATCH = 10,
    KVS_HELLO_REQUIRED = 11,
    KVS_NO_LEASE = 12,           ///< lease or reservation unknown or expired
    KVS_SHUTTING_DOWN = 13,
    KVS_LIMIT_EXCEEDED = 14,
    KVS_LAYOUT_MISMATCH = 15,    ///< the chunk has another layout: treat as a miss
    KVS_INTERNAL = 16,           ///< a defect of the daemon, or a status this library does not know
    KVS_NOT_DURABLE = 17,        ///< done in memory, but a restart of the daemon may undo it

    KVS_CANNOT_CONNECT = 1000,   ///< nobody listens, or the last attempt failed a moment ago
    KVS_CONNECTION_LOST = 1001,  ///< closed in the middle of a call; the next call reconnects
    KVS_INVALID_ARGUMENT = 1002,
    KVS_OUT_OF_MEMORY = 1003,
    KVS_FORKED = 1004,           ///< lease, reservation or queue of the parent process
    KVS_DESTINATION_TOO_SMALL = 1005,  ///< `byte_count` tells the size that is needed
    KVS_DAMAGED = 1006,          ///< received bytes do not match their checksum: treat as a miss
    KVS_PROTOCOL_ERROR = 1007,   ///< the daemon breaks the protocol; the connection was closed
    KVS_LEASE_ENDED = 1008,      ///< what was read under this lease must not be used
    KVS_WRONG_STATE = 1009,      ///< a streaming put is under way, or none is
    KVS_SYSTEM = 1010,           ///< the operating system refused; errno is in the text
    KVS_NOT_DECODED = 1011       ///< the codec refused the container: treat as a miss
} kvs_status;

/// Constant name of a status, such as "not found"; never NULL.
const char *kvs_status_text(kvs_status status);

// ---------------------------------------------------------------------------------------------
// Keys

#define KVS_KEY_BYTE_COUNT 32
#define KVS_LAYOUT_BYTE_COUNT 16
#define KVS_CHUNK_TOKEN_COUNT_DEFAULT 256
#define KVS_CHUNK_TOKEN_COUNT_MAXIMUM 65536

/// Names a chunk within a namespace.
typedef struct kvs_key {
    uint8_t bytes[KVS_KEY_BYTE_COUNT];
} kvs_key;

/// Says what the bytes of a chunk mean; all zero: opaque.
typedef struct kvs_layout {
    uint8_t bytes[KVS_LAYOUT_BYTE_COUNT];
} kvs_layout;

/// One field of a layout description: name of [a-z0-9_]+, value without line breaks, both UTF-8.
typedef struct kvs_layout_field {
    const char *name;
    const char *value;
} kvs_layout_field;

/// Room for kvs_format_number, with the terminating zero.
#define KVS_NUMBER_BYTE_COUNT 32

/// Writes a double as a layout description wants it: the fewest digits that read back to the same
/// double, "10000.0", "0.5", "1e-05". Write a whole number with "%lld" instead: 10000 and 10000.0
/// are different descriptions. KVS_INVALID_ARGUMENT for NaN and infinities.
kvs_status kvs_format_number(double value, char text[KVS_NUMBER_BYTE_COUNT]);

/// Layout id of a description, docs/key-derivation.md. Fields may come in any order, names once.
kvs_status kvs_layout_id(const kvs_layout_field *fields, size_t field_count, kvs_layout *layout);

/// Keys of the complete chunks of a prompt under `secret` (32 bytes, or NULL for 32 zero bytes).
/// `parent` is the key of the chunk before the first token, NULL at the start of a prompt. Writes
/// token_count / chunk_token_count keys (rounded down); `keys` must have room for them.
kvs_status kvs_derive_prefix_keys(const uint8_t *secret, const kvs_layout *layout,
                                  const kvs_key *parent, const uint32_t *tokens,
                                  size_t token_count, size_t chunk_token_count, kvs_key *keys);

/// Key of one position-independent chunk of `token_count` tokens.
kvs_status kvs_derive_content_key(const uint8_t *secret, const kvs_layout *layout,
                                  const uint32_t *tokens, size_t token_count, kvs_key *key);

/// Key of an opaque value with a name of any bytes.
kvs_status kvs_derive_opaque_key(const uint8_t *secret, const void *name, size_t name_byte_count,
                                 kvs_key *key);

// ---------------------------------------------------------------------------------------------
// Client

typedef struct kvs_client kvs_client;

/// Never use shared memory, even where the daemon grants it.
#define KVS_WITHOUT_SHARED_MEMORY 1u

/// Options of a client. Start from KVS_OPTIONS_INIT; zero or NULL means the default.
typedef struct kvs_options {
    size_t size;                     ///< sizeof(kvs_options): lets later versions add fields
    const char *namespace_name;      ///< "default"
    const void *token;               ///< none; copied
    size_t token_byte_count;         ///< at most 256
    const char *client_name;         ///< "libkvstore"; at most 64 bytes, for the daemon's log
    uint32_t deadline_milliseconds;  ///< 1,000; at most 600,000
    uint32_t flags;                  ///< KVS_WITHOUT_SHARED_MEMORY
    uint64_t shared_put_byte_count;  ///< chunks from this size are put by shared memory; 256 KiB
} kvs_options;

#define KVS_OPTIONS_INIT { sizeof(kvs_options), NULL, NULL, 0, NULL, 0, 0, 0 }

/// Makes a client for "unix:/path" or "tcp:host:port" ("tcp:[::1]:port" for IPv6).
///
/// Does not connect: the first call does, so an engine can start before the daemon. A host name is
/// resolved here, once, which may take as long as the resolver does; numbers need none. `options`
/// may be NULL. Give the client back with kvs_close.
kvs_status kvs_open(const char *address, const kvs_options *options, kvs_client **client);

/// Closes the connection and frees the client; leases and reservations end with it. NULL is fine.
void kvs_close(kvs_client *client);

/// Why the last call on this client did not return KVS_OK, and what to do about it; "" if it did,
/// unless a chunk of it was KVS_NOT_DECODED. Valid until the next call on the client.
const char *kvs_last_error_text(const kvs_client *client);

/// A round trip. Connects if necessary.
kvs_status kvs_ping(kvs_client *client, uint32_t deadline_milliseconds);

/// The secret of the namespace that the daemon announced. Connects if it was never connected.
kvs_status kvs_secret(kvs_client *client, uint8_t secret[32], uint32_t deadline_milliseconds);

/// kvs_derive_prefix_keys with the secret of the client's namespace. `key_count` (may be NULL)
/// receives the number of keys. Talks to the daemon only if it was never connected.
kvs_status kvs_prefix_keys(kvs_client *client, const kvs_layout *layout, const uint32_t *tokens,
                           size_t token_count, size_t chunk_token_count, kvs_key *keys,
                           size_t *key_count);

/// kvs_layout_id, and tells the daemon what the layout is, so that it can compress chunks of it:
/// puts the description under a key of its own (docs/container-format.md, section 12). Call it once
/// where an engine starts. `layout` is written also when the daemon could not be told; then chunks
/// of the layout are compressed less, and nothing else is lost.
kvs_status kvs_describe_layout(kvs_client *client, const kvs_layout_field *fields,
                               size_t field_count, kvs_layout *layout,
                               uint32_t deadline_milliseconds);

/// kvs_derive_opaque_key with the secret of the client's namespace.
kvs_status kvs_opaque_key(kvs_client *client, const void *name, size_t name_byte_count,
                          kvs_key *key);

// ---------------------------------------------------------------------------------------------
// Encoding: fewer bytes on the way, by a codec that the caller brings

/// How good a chunk is, docs/container-format.md, section 1. Bytes of a level other than raw are a
/// container.
typedef enum kvs_level {
    KVS_LEVEL_RAW = 0,
    KVS_LEVEL_ZSTD = 1,      ///< the same bytes come back
    KVS_LEVEL_LOSSLESS = 2,  ///< the same bytes come back
    KVS_LEVEL_Q1 = 3,        ///< nearly the same
    KVS_LEVEL_Q2 = 4,        ///< as good for most uses
    KVS_LEVEL_Q3 = 5,
    KVS_LEVEL_Q4 = 6,
    KVS_LEVEL_ADAPTIVE = 254,  ///< of a get: what the deadline allows
    KVS_LEVEL_AS_STORED = 255  ///< of a get
} kvs_level;

/// Functions that encode and decode chunks. kvsc_attach of libkvstore-codec fills them in
/// (kvstore_codec.h); libkvstore calls them on the thread of the call, and knows no more of it.
///
/// `encode` and `decode` return 0, or a number of the codec's, which `error_text` explains. A
/// container that would need more than `capacity` bytes is no error: its byte count is 0.
typedef struct kvs_codec {
    void *context;
    int (*encode)(void *context, const void *payload, uint64_t payload_byte_count, kvs_level level,
                  int64_t first_position, void *container, uint64_t capacity,
                  uint64_t *container_byte_count);
    int (*payload_byte_count)(void *context, const void *container, uint64_t container_byte_count,
                              uint64_t *payload_byte_count);
    int (*decode)(void *context, const void *container, uint64_t container_byte_count,
                  void *payload, uint64_t payload_byte_count);
    const char *(*error_text)(void *context);
} kvs_codec;

/// The description of a layout, in its canonical form, as kvs_describe_layout put it into the
/// namespace. KVS_NOT_FOUND: nobody did. `bytes` is to be freed with kvs_free.
kvs_status kvs_fetch_description(kvs_client *client, const kvs_layout *layout, void **bytes,
                                 size_t *byte_count, uint32_t deadline_milliseconds);

/// A profile from the namespace: the one of that `hash` (16 bytes) or, with NULL, the one that
/// chunks of the layout are to be encoded with. `bytes` is to be freed with kvs_free.
kvs_status kvs_fetch_profile(kvs_client *client, const kvs_layout *layout, const uint8_t *hash,
                             void **bytes, size_t *byte_count, uint32_t deadline_milliseconds);

/// Frees what kvs_fetch_description or kvs_fetch_profile allocated. NULL is fine.
void kvs_free(void *bytes);

// ---------------------------------------------------------------------------------------------
// Put

/// A part of the caller's memory to read from.
typedef struct kvs_const_span {
    const void *bytes;
    size_t byte_count;
} kvs_const_span;

/// A part of the caller's memory to write to.
typedef struct kvs_span {
    void *bytes;
    size_t byte_count;
} kvs_span;

/// Only done when the chunk is on stable storage, so that it survives a restart of the daemon.
#define KVS_DURABLE 1u
/// `first_position` is set.
#define KVS_POSITIONED 2u

/// How to store a chunk; NULL where it is asked for means all zero.
typedef struct kvs_put_options {
    kvs_layout layout;
    uint32_t time_to_live_milliseconds;  ///< 0: none
    uint32_t flags;                      ///< KVS_DURABLE, KVS_POSITIONED
    uint32_t first_position;  ///< of the chunk's first token in its sequence: helps compression
    kvs_level level;          ///< KVS_LEVEL_RAW to KVS_LEVEL_Q4
    const kvs_codec *codec;   ///< encodes the bytes; NULL: they are a container of `level` already
} kvs_put_options;

/// Stores the bytes of all parts, one after another, under `key` if it is absent.
///
/// KVS_OK: stored and visible. KVS_EXISTS: was there, not an error for a cache. Goes through shared
/// memory where that is granted and the chunk is large. At most 2^28 bytes in all, at least 1.
/// With KVS_DURABLE both mean that the chunk is on stable storage; KVS_NOT_DURABLE: it is stored
/// and visible, but a restart of the daemon forgets it (it has no SSD tier, or that is full or
/// failing).
///
/// With a level and a codec the bytes are encoded first, on this thread and whatever the deadline,
/// and the container is stored; where that is no smaller, the bytes are. KVS_UNSUPPORTED: the
/// daemon cannot keep this container; `layout` must be that of the codec's description.
kvs_status kvs_put(kvs_client *client, const kvs_key *key, const kvs_const_span *parts,
                   size_t part_count, const kvs_put_options *options,
                   uint32_t deadline_milliseconds);

/// Begins a put of `byte_count` bytes that are sent piece by piece, for example layer by layer
/// while the engine computes. Until kvs_put_finish or kvs_put_cancel no other call may use the
/// client. The deadline runs from here to the end of kvs_put_finish. A codec can not be used.
kvs_status kvs_put_begin(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                         const kvs_put_options *options, uint32_t deadline_milliseconds);

/// Sends the next bytes. On an error the put has ended and nothing is stored.
kvs_status kvs_put_append(kvs_client *client, const kvs_const_span *parts, size_t part_count);

/// Waits for the answer. All bytes must have been appended. Statuses as for kvs_put.
kvs_status kvs_put_finish(kvs_client *client);

/// Gives a begun put up; nothing is stored. Closes the connection, which ends leases.
void kvs_put_cancel(kvs_client *client);

// ---------------------------------------------------------------------------------------------
// Get

/// Where the bytes of one chunk go: the spans are filled one after another.
typedef struct kvs_destination {
    const kvs_span *spans;
    size_t span_count;
} kvs_destination;

/// What happened to one key of a get.
typedef struct kvs_get_result {
    kvs_status status;     ///< KVS_OK, KVS_NOT_FOUND, KVS_DESTINATION_TOO_SMALL, KVS_DAMAGED, …
    uint32_t level;        ///< kvs_level of what came; of bytes that were decoded: of the container
    uint64_t byte_count;   ///< size of the chunk with KVS_OK and KVS_DESTINATION_TOO_SMALL, else 0
    uint64_t remaining_milliseconds;  ///< to live; UINT64_MAX: for ever
} kvs_get_result;

/// Reads chunks into the caller's memory, their checksums verified here.
///
/// `results` gets one entry per key, always. The return value is KVS_OK if the request as a whole
/// went through, whatever happened to single keys; else every key not yet served has that status.
/// The contents of a destination are defined only with KVS_OK. A chunk larger than its destination
/// costs its transfer but leaves the connection in step. With `expected_layout` not NULL a chunk of
/// another layout is KVS_LAYOUT_MISMATCH. Any number of keys: they are sent in batches.
kvs_status kvs_get(kvs_client *client, const kvs_key *keys, size_t key_count,
                   const kvs_destination *destinations, kvs_get_result *results,
                   const kvs_layout *expected_layout, uint32_t deadline_milliseconds);

/// Gives memory for chunk `index` of `byte_count` bytes, or NULL to skip it. May be called again
/// for the same index; then the last answer counts. Must not call into the same client.
typedef void *kvs_provider(void *context, size_t index, uint64_t byte_count);

/// kvs_get for a caller who does not know the sizes: `provide` is asked for memory once the size is
/// known, so that one round trip suffices.
kvs_status kvs_get_with(kvs_client *client, const kvs_key *keys, size_t key_count,
                        kvs_provider *provide, void *context, kvs_get_result *results,
                        const kvs_layout *expected_layout, uint32_t deadline_milliseconds);

/// How to get chunks. Start from KVS_GET_OPTIONS_INIT.
typedef struct kvs_get_options {
    size_t size;                        ///< sizeof(kvs_get_options)
    const kvs_layout *expected_layout;  ///< as for kvs_get
    kvs_level level;                    ///< any
    const kvs_codec *codec;             ///< decodes containers; NULL: they come as they are
} kvs_get_options;

#define KVS_GET_OPTIONS_INIT { sizeof(kvs_get_options), NULL, KVS_LEVEL_RAW, NULL }

/// kvs_get, or with `provide` kvs_get_with (`destinations` is NULL then), at a level: the daemon
/// sends containers of that level where it can, else of a finer one, or raw (docs/protocol.md).
///
/// With a codec, destinations get the decoded bytes, and `byte_count` is theirs; KVS_NOT_DECODED if
/// it refuses a container. Decoding is done on this thread, whatever the deadline. Without one,
/// `level` of a result says whether its bytes are a container. Goes through the socket.
kvs_status kvs_get_at(kvs_client *client, const kvs_key *keys, size_t key_count,
                      const kvs_get_options *options, const kvs_destination *destinations,
                      kvs_provider *provide, void *context, kvs_get_result *results,
                      uint32_t deadline_milliseconds);

/// kvs_get for a part of each chunk: `byte_count` bytes (at least 1) from `offset` on, the same
/// part of every chunk, which the daemon reads without the rest.
///
/// Destinations hold the part; `byte_count` of a result is its size, not the chunk's. A chunk that
/// does not have all of it is KVS_LIMIT_EXCEEDED. Goes through the socket, also where memory is
/// shared, since a checksum for the part comes only that way.
kvs_status kvs_get_range(kvs_client *client, const kvs_key *keys, size_t key_count,
                         uint64_t offset, uint64_t byte_count,
                         const kvs_destination *destinations, kvs_get_result *results,
                         const kvs_layout *expected_layout, uint32_t deadline_milliseconds);

// ---------------------------------------------------------------------------------------------
// Lookup, delete, pin, figures

typedef struct kvs_lookup_record {
    kvs_status status;               ///< KVS_OK or KVS_NOT_FOUND
    uint8_t tier;                    ///< 1 RAM, 2 SSD only, 3 peer; 0: absent
    uint8_t level;                   ///< how it is encoded; 0: raw
    uint16_t reserved;
    uint32_t load_microseconds;      ///< estimated time to load
    uint32_t reserved2;
    uint64_t byte_count;
    uint64_t remaining_milliseconds; ///< to live; UINT64_MAX: for ever
} kvs_lookup_record;

/// Tells for every key whether it is stored. `records` has room for `key_count` entries.
kvs_status kvs_lookup(kvs_client *client, const kvs_key *keys, size_t key_count,
                      kvs_lookup_record *records, uint32_t deadline_milliseconds);

/// Tells how many leading keys are stored. `records` may be NULL, else it has room for `key_count`
/// entries, of which the first `*prefix_count` are written.
kvs_status kvs_lookup_prefix(kvs_client *client, const kvs_key *keys, size_t key_count,
                             size_t *prefix_count, kvs_lookup_record *records,
                             uint32_t deadline_milliseconds);

/// Deletes keys. `deleted_count` (may be NULL) receives how many were there. KVS_NOT_DURABLE: all
/// is done, but some of what is gone may come back after a restart of the daemon.
kvs_status kvs_delete(kvs_client *client, const kvs_key *keys, size_t key_count,
                      size_t *deleted_count, uint32_t deadline_milliseconds);

#define KVS_PIN_MILLISECONDS_MAXIMUM ((uint64_t)1 << 40)

/// Keeps chunks from being evicted for `milliseconds` (1 to KVS_PIN_MILLISECONDS_MAXIMUM) from now.
/// Replaces the time of an earlier pin. Deletion and a chunk's own time to live still end it.
///
/// `statuses` gets one entry per key, always: KVS_OK; KVS_NOT_FOUND: not stored, nothing is pinned;
/// KVS_BUSY: more is pinned than the daemon allows; KVS_NOT_DURABLE: pinned, but a restart of the
/// daemon forgets it. The return value is KVS_OK if the request as a whole went through; else every
/// key not yet served has that status. Any number of keys: they are sent in batches.
kvs_status kvs_pin(kvs_client *client, const kvs_key *keys, size_t key_count,
                   uint64_t milliseconds, kvs_status *statuses, uint32_t deadline_milliseconds);

/// Lets chunks be evicted again, whoever pinned them. `statuses` as for kvs_pin: KVS_OK also for a
/// chunk that was not pinned; KVS_NOT_DURABLE: it may be pinned again after a restart.
kvs_status kvs_unpin(kvs_client *client, const kvs_key *keys, size_t key_count,
                     kvs_status *statuses, uint32_t deadline_milliseconds);

typedef struct kvs_stat_pair {
    char name[64];  ///< lower case, with its unit, such as "memory_budget_bytes"
    uint64_t value;
} kvs_stat_pair;

/// Figures of the node. Writes at most `capacity` pairs; `pair_count` receives how many there are.
/// Names that this library has no room for (64 bytes and more) are left out.
kvs_status kvs_stat(kvs_client *client, kvs_stat_pair *pairs, size_t capacity, size_t *pair_count,
                    uint32_t deadline_milliseconds);

typedef struct kvs_chunk_description {
    kvs_layout layout;
    uint64_t byte_count;
    uint64_t checksum;                ///< XXH3-64 of the bytes
    uint64_t remaining_milliseconds;  ///< to live; UINT64_MAX: for ever
    uint8_t level;
    uint8_t reserved[7];
} kvs_chunk_description;

/// Describes one chunk without reading it; does not count as a use.
kvs_status kvs_describe(kvs_client *client, const kvs_key *key,
                        kvs_chunk_description *description, uint32_t deadline_milliseconds);

// ---------------------------------------------------------------------------------------------
// Leases: reading in place (shared memory, Unix socket only)

/// A chunk that may be read in place. Fields from `lease_id` on belong to the library.
typedef struct kvs_lease {
    kvs_status status;      ///< KVS_OK, KVS_NOT_FOUND, KVS_BUSY (too many leases), …
    uint32_t reserved;
    const void *bytes;      ///< NULL unless KVS_OK; do not write, the page is read-only
    uint64_t byte_count;
    uint64_t checksum;      ///< XXH3-64 of the bytes
    uint64_t remaining_milliseconds;
    uint64_t expiry_nanoseconds;  ///< of CLOCK_MONOTONIC
    uint64_t lease_id;
    uint64_t connection_number;
    void *mapping;
} kvs_lease;

/// Leases chunks for reading in place, for `lease_milliseconds` (0: as long as the daemon allows).
///
/// `leases` gets one entry per key, always. Give every entry with KVS_OK back with
/// kvs_lease_release. KVS_UNSUPPORTED on TCP and where the daemon does not share its memory.
kvs_status kvs_lease_acquire(kvs_client *client, const kvs_key *keys, size_t key_count,
                             uint32_t lease_milliseconds, kvs_lease *leases,
                             uint32_t deadline_milliseconds);

/// Whether the lease still holds: 1, or 0 if it ran out or the connection ended. Ask *after*
/// reading: 1 then means that what was read was good.
int kvs_lease_still_valid(kvs_client *client, const kvs_lease *lease);

/// Copies the chunk out and verifies its checksum on the copy, so that the answer is right even if
/// the lease ended meanwhile. KVS_DAMAGED or KVS_LEASE_ENDED: do not use the bytes.
kvs_status kvs_copy_out(kvs_client *client, const kvs_lease *lease,
                        const kvs_destination *destination);

/// Gives leases back; the memory must not be read any more. Costs no round trip: the daemon learns
/// of it with the next lease or get, or by kvs_release_now. Entries not KVS_OK are ignored.
void kvs_lease_release(kvs_client *client, kvs_lease *leases, size_t lease_count);

/// Tells the daemon at once about leases that were given back.
kvs_status kvs_release_now(kvs_client *client, uint32_t deadline_milliseconds);

// ---------------------------------------------------------------------------------------------
// Reservations: writing in place (shared memory, Unix socket only)

/// Memory to fill. Fields from `reservation_id` on belong to the library.
typedef struct kvs_reservation {
    void *bytes;
    uint64_t byte_count;
    uint64_t expiry_nanoseconds;  ///< of CLOCK_MONOTONIC
    uint64_t reservation_id;
    uint64_t connection_number;
    void *mapping;
} kvs_reservation;

/// Reserves room for a chunk. Fill it, then kvs_commit, or give it up with kvs_abort.
/// KVS_EXISTS: no need to. KVS_UNSUPPORTED as for leases.
kvs_status kvs_reserve(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                       const kvs_put_options *options, kvs_reservation *reservation,
                       uint32_t deadline_milliseconds);

/// Publishes the chunk; statuses as for kvs_put. Whatever the status, the reservation is gone.
kvs_status kvs_commit(kvs_client *client, kvs_reservation *reservation,
                      uint32_t deadline_milliseconds);

/// Gives the reservation up.
kvs_status kvs_abort(kvs_client *client, kvs_reservation *reservation,
                     uint32_t deadline_milliseconds);

// ---------------------------------------------------------------------------------------------
// Queue: the asynchronous form, with an eventfd

typedef struct kvs_queue kvs_queue;

#define KVS_QUEUE_DEPTH_MAXIMUM 65536

typedef enum kvs_operation {
    KVS_OPERATION_GET = 1,
    KVS_OPERATION_PUT = 2,
    KVS_OPERATION_LOOKUP = 3,
    KVS_OPERATION_LOOKUP_PREFIX = 4,
    KVS_OPERATION_DELETE = 5
} kvs_operation;

/// One finished request.
typedef struct kvs_completion {
    uint64_t ticket;          ///< as given to submit
    kvs_operation operation;
    kvs_status status;        ///< what the blocking call would have returned
    uint64_t count;           ///< prefix count or deleted count, else 0
} kvs_completion;

/// Opens a queue with one client and exactly one worker thread, which blocks all signals.
///
/// At most `depth` requests are in the queue between submit and drain; then submit returns
/// KVS_BUSY.
/// All queue functions may be called from several threads. A deadline runs from the submit.
/// Memory that a request names (destinations, results, records, parts) must stay valid until its
/// completion was drained or the queue is closed; arrays of keys, spans and parts are copied. So
/// must the codec of a put, which only the queue may use meanwhile.
kvs_status kvs_queue_open(const char *address, const kvs_options *options, size_t depth,
                          kvs_queue **queue);

/// Descriptor that becomes readable when completions wait; kvs_queue_drain clears it.
int kvs_queue_event_fd(const kvs_queue *queue);

kvs_status kvs_queue_submit_get(kvs_queue *queue, uint64_t ticket, const kvs_key *keys,
                                size_t key_count, const kvs_destination *destinations,
                                kvs_get_result *results, uint32_t deadline_milliseconds);
kvs_status kvs_queue_submit_put(kvs_queue *queue, uint64_t ticket, const kvs_key *key,
                                const kvs_const_span *parts, size_t part_count,
                                const kvs_put_options *options, uint32_t deadline_milliseconds);
/// `longest_prefix` not 0: as kvs_lookup_prefix, the count is in the completion.
kvs_status kvs_queue_submit_lookup(kvs_queue *queue, uint64_t ticket, const kvs_key *keys,
                                   size_t key_count, int longest_prefix,
                                   kvs_lookup_record *records, uint32_t deadline_milliseconds);
kvs_status kvs_queue_submit_delete(kvs_queue *queue, uint64_t ticket, const kvs_key *keys,
                                   size_t key_count, uint32_t deadline_milliseconds);

/// Takes up to `capacity` completions; returns how many. Never waits.
size_t kvs_queue_drain(kvs_queue *queue, kvs_completion *completions, size_t capacity);

/// Cancels what is under way, ends the worker and frees the queue; does not wait for the daemon.
/// Not while another thread is in a call on the queue. In a forked child it only frees.
void kvs_queue_close(kvs_queue *queue);

#ifdef __cplusplus
}
#endif

#endif
