// SPDX-License-Identifier: Apache-2.0
//
// Writes a directory of the SSD tier as docs/ssd-format.md says, without a daemon: sealed segments,
// each full of chunks of one size. Their keys are those of the load client's key set of that size.
// Without payloads the files are sparse, so that the metadata of a terabyte needs little room; such
// chunks are found at start but cannot be read. With payloads they can.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../load/keys.h"
#include "checksum.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are copied as they are");

enum {
    BLOCK_BYTE_COUNT = 4096,
    SEGMENT_BLOCK_COUNT_MAX = 65536,
    FORMAT_VERSION = 1,
    STATE_IN_USE = 1,
    KIND_CHUNK = 1,
    STRIPE_BYTE_COUNT_MIN = 65536,
    STRIPE_COUNT_MAX = 256,
    PATH_BYTE_COUNT_MAX = 4096,
};

// The first 16 bytes of SHA-256 of "default", the namespace of clients that name none.
static const uint8_t namespace_tag[16] = {0x37, 0xa8, 0xee, 0xc1, 0xce, 0x19, 0x68, 0x7d,
                                          0x13, 0x2f, 0xe2, 0x90, 0x51, 0xdc, 0xa6, 0x29};

struct __attribute__((packed)) identity_block {
    char magic[8];
    uint32_t version;
    uint32_t segment_block_count;
    uint8_t store_id[16];
    uint8_t directory_id[16];
    uint64_t created_wall_milliseconds;
    uint8_t zeros[BLOCK_BYTE_COUNT - 64];
    uint64_t checksum;
};

struct __attribute__((packed)) segment_header {
    char magic[8];
    uint32_t version;
    uint32_t state;
    uint8_t store_id[16];
    uint32_t slot;
    uint32_t segment_block_count;
    uint64_t serial;
    uint64_t nonce;
    uint64_t first_sequence;
    uint64_t opened_wall_milliseconds;
    uint8_t zeros[BLOCK_BYTE_COUNT - 80];
    uint64_t checksum;
};

struct __attribute__((packed)) record_header {
    char magic[4];
    uint16_t kind;
    uint16_t version;
    uint64_t nonce;
    uint64_t sequence;
    uint32_t block_count;
    uint32_t own_block;
    uint8_t key[BENCH_KEY_BYTE_COUNT];
    uint8_t namespace_tag[16];
    uint8_t layout_id[16];
    uint64_t payload_byte_count;
    uint64_t payload_checksum;
    uint64_t expiry_wall_milliseconds;
    uint64_t stored_wall_milliseconds;
    uint8_t level;
    uint8_t zeros_a[3];
    uint32_t stripe_byte_count;
    uint32_t stripe_count;
    uint8_t zeros_b[256 - 140];
    uint64_t stripe_checksums[STRIPE_COUNT_MAX];
    uint8_t zeros_c[BLOCK_BYTE_COUNT - 8 - 256 - 8 * STRIPE_COUNT_MAX];
    uint64_t checksum;
};

struct __attribute__((packed)) table_entry {
    uint8_t kind;
    uint8_t level;
    uint16_t reserved;
    uint32_t block;
    uint32_t record_block_count;
    uint32_t payload_byte_count;
    uint64_t sequence;
    uint64_t payload_checksum;
    uint64_t expiry_wall_milliseconds;
    uint8_t key[BENCH_KEY_BYTE_COUNT];
    uint8_t namespace_tag[16];
    uint8_t layout_id[16];
};

struct __attribute__((packed)) trailer_block {
    char magic[8];
    uint32_t version;
    uint32_t entry_count;
    uint64_t nonce;
    uint64_t serial;
    uint64_t table_checksum;
    uint64_t next_sequence;
    uint8_t zeros[BLOCK_BYTE_COUNT - 56];
    uint64_t checksum;
};

_Static_assert(sizeof(struct identity_block) == BLOCK_BYTE_COUNT, "docs/ssd-format.md, identity");
_Static_assert(sizeof(struct segment_header) == BLOCK_BYTE_COUNT, "docs/ssd-format.md, segment");
_Static_assert(sizeof(struct record_header) == BLOCK_BYTE_COUNT, "docs/ssd-format.md, record");
_Static_assert(sizeof(struct table_entry) == 104, "docs/ssd-format.md, table");
_Static_assert(sizeof(struct trailer_block) == BLOCK_BYTE_COUNT, "docs/ssd-format.md, trailer");

struct plan {
    const char *directory;
    uint32_t segment_count;
    uint32_t segment_block_count;
    bool with_payloads;
    struct key_set keys;
    uint32_t record_block_count;
    uint32_t chunks_per_segment;
    uint8_t store_id[16];
    uint64_t now_wall_milliseconds;
    uint64_t written_byte_count;
};

static uint64_t number(const char *text, const char *name, uint64_t low, uint64_t high) {
    char *end = NULL;
    errno = 0;
    const uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < low || value > high) {
        fail("--%s takes a number from %llu to %llu, not %s", name, (unsigned long long)low,
             (unsigned long long)high, text);
    }
    return value;
}

static uint64_t block_count_of(uint64_t byte_count) {
    return (byte_count + BLOCK_BYTE_COUNT - 1) / BLOCK_BYTE_COUNT;
}

// The checksum of a block, whose last eight bytes it becomes.
static uint64_t block_checksum(const void *block) {
    return checksum_xxh3(block, BLOCK_BYTE_COUNT - 8);
}

// How many records, with their table, fit between header and trailer.
static uint32_t chunks_that_fit(const struct plan *plan) {
    const uint64_t room = plan->segment_block_count - 2;
    uint64_t count = room / plan->record_block_count;
    while (count > 0 && count * plan->record_block_count +
                                block_count_of(count * sizeof(struct table_entry)) >
                            room) {
        count -= 1;
    }
    return (uint32_t)count;
}

static struct plan parse_options(int argument_count, char **arguments) {
    enum { DIRECTORY, SEGMENTS, SEGMENT_BYTES, VALUE_BYTES, PAYLOADS };
    static const struct option options[] = {{"directory", required_argument, NULL, DIRECTORY},
                                            {"segments", required_argument, NULL, SEGMENTS},
                                            {"segment-bytes", required_argument, NULL,
                                             SEGMENT_BYTES},
                                            {"value-bytes", required_argument, NULL, VALUE_BYTES},
                                            {"payloads", no_argument, NULL, PAYLOADS},
                                            {0}};
    struct plan plan = {.segment_count = 1, .segment_block_count = SEGMENT_BLOCK_COUNT_MAX};
    size_t value_byte_count = (size_t)4 << 20;
    int option;
    while ((option = getopt_long(argument_count, arguments, "", options, NULL)) != -1) {
        switch (option) {
        case DIRECTORY: plan.directory = optarg; break;
        case SEGMENTS: plan.segment_count = (uint32_t)number(optarg, "segments", 1, 99999); break;
        case SEGMENT_BYTES:
            plan.segment_block_count = (uint32_t)(number(optarg, "segment-bytes", 1 << 16,
                                                         (uint64_t)SEGMENT_BLOCK_COUNT_MAX *
                                                             BLOCK_BYTE_COUNT) /
                                                  BLOCK_BYTE_COUNT);
            break;
        case VALUE_BYTES:
            value_byte_count = number(optarg, "value-bytes", 1, BENCH_VALUE_BYTE_COUNT_MAX);
            break;
        case PAYLOADS: plan.with_payloads = true; break;
        default: fail("unknown option; Benchmarks/segments/main.c lists them");
        }
    }
    if (plan.directory == NULL) fail("--directory is missing");
    plan.record_block_count = (uint32_t)(1 + block_count_of(value_byte_count));
    plan.chunks_per_segment = chunks_that_fit(&plan);
    if (plan.chunks_per_segment == 0) fail("no chunk of that size fits a segment");
    plan.keys = (struct key_set){.salt = key_set_salt(value_byte_count),
                                 .key_count =
                                     (uint64_t)plan.segment_count * plan.chunks_per_segment,
                                 .value_byte_count = value_byte_count};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    plan.now_wall_milliseconds =
        (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
    return plan;
}

static void random_id(uint8_t *id, uint64_t salt) {
    for (uint64_t half = 0; half < 2; half += 1) {
        const uint64_t word = mix64(clock_nanoseconds() ^ mix64(salt * 2 + half));
        memcpy(id + half * 8, &word, 8);
    }
}

static int create_file(const struct plan *plan, const char *name) {
    char path[PATH_BYTE_COUNT_MAX];
    const int length = snprintf(path, sizeof path, "%s/%s", plan->directory, name);
    if (length < 0 || (size_t)length >= sizeof path) fail("the directory's path is too long");
    const int descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (descriptor < 0) fail("cannot create %s: %s", path, strerror(errno));
    return descriptor;
}

static void write_at(struct plan *plan, int descriptor, uint64_t block, const void *bytes,
                     size_t byte_count) {
    const uint8_t *next = bytes;
    off_t offset = (off_t)(block * BLOCK_BYTE_COUNT);
    plan->written_byte_count += byte_count;
    while (byte_count > 0) {
        const ssize_t written = pwrite(descriptor, next, byte_count, offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail("cannot write in %s: %s", plan->directory, strerror(errno));
        next += written;
        offset += written;
        byte_count -= (size_t)written;
    }
}

static void write_identity(struct plan *plan) {
    struct identity_block identity = {.version = FORMAT_VERSION,
                                      .segment_block_count = plan->segment_block_count,
                                      .created_wall_milliseconds = plan->now_wall_milliseconds};
    memcpy(identity.magic, "KVSTORE1", sizeof identity.magic);
    memcpy(identity.store_id, plan->store_id, sizeof identity.store_id);
    random_id(identity.directory_id, 2);
    identity.checksum = block_checksum(&identity);
    const int descriptor = create_file(plan, "store.kvs");
    write_at(plan, descriptor, 0, &identity, sizeof identity);
    close(descriptor);
}

static uint32_t stripe_byte_count_of(size_t value_byte_count) {
    uint32_t stripe_byte_count = STRIPE_BYTE_COUNT_MIN;
    while ((value_byte_count + stripe_byte_count - 1) / stripe_byte_count > STRIPE_COUNT_MAX) {
        stripe_byte_count *= 2;
    }
    return stripe_byte_count;
}

// Writes the record of a chunk, header and payload, and returns the payload's checksum.
static uint64_t write_record(struct plan *plan, int descriptor, const struct value_key *key,
                             const struct table_entry *entry, uint64_t nonce, uint8_t *payload) {
    const size_t byte_count = plan->keys.value_byte_count;
    pattern_fill(payload, byte_count, value_seed(key));
    struct record_header header = {.kind = KIND_CHUNK,
                                   .version = FORMAT_VERSION,
                                   .nonce = nonce,
                                   .sequence = entry->sequence,
                                   .block_count = entry->record_block_count,
                                   .own_block = entry->block,
                                   .payload_byte_count = byte_count,
                                   .payload_checksum = checksum_xxh3(payload, byte_count),
                                   .stored_wall_milliseconds = plan->now_wall_milliseconds,
                                   .stripe_byte_count = stripe_byte_count_of(byte_count)};
    memcpy(header.magic, "KVRC", sizeof header.magic);
    memcpy(header.key, key->bytes, sizeof header.key);
    memcpy(header.namespace_tag, namespace_tag, sizeof header.namespace_tag);
    for (size_t offset = 0; offset < byte_count; offset += header.stripe_byte_count) {
        const size_t rest = byte_count - offset;
        header.stripe_checksums[header.stripe_count] = checksum_xxh3(
            payload + offset, rest < header.stripe_byte_count ? rest : header.stripe_byte_count);
        header.stripe_count += 1;
    }
    header.checksum = block_checksum(&header);
    write_at(plan, descriptor, entry->block, &header, sizeof header);
    write_at(plan, descriptor, entry->block + 1, payload, byte_count);
    return header.payload_checksum;
}

static void write_segment(struct plan *plan, uint32_t slot, struct table_entry *table,
                          uint8_t *payload) {
    char name[32];
    snprintf(name, sizeof name, "segment-%05u.kvs", slot);
    const int descriptor = create_file(plan, name);
    if (ftruncate(descriptor, (off_t)plan->segment_block_count * BLOCK_BYTE_COUNT) != 0) {
        fail("cannot size %s: %s", name, strerror(errno));
    }
    const uint64_t first_number = (uint64_t)slot * plan->chunks_per_segment;
    struct segment_header header = {.version = FORMAT_VERSION,
                                    .state = STATE_IN_USE,
                                    .slot = slot,
                                    .segment_block_count = plan->segment_block_count,
                                    .serial = (uint64_t)slot + 1,
                                    .nonce = mix64(plan->now_wall_milliseconds ^ mix64(slot)),
                                    .first_sequence = first_number + 1,
                                    .opened_wall_milliseconds = plan->now_wall_milliseconds};
    memcpy(header.magic, "KVSSEGMT", sizeof header.magic);
    memcpy(header.store_id, plan->store_id, sizeof header.store_id);
    header.checksum = block_checksum(&header);
    write_at(plan, descriptor, 0, &header, sizeof header);

    const uint64_t table_block_count =
        block_count_of((uint64_t)plan->chunks_per_segment * sizeof *table);
    memset(table, 0, table_block_count * BLOCK_BYTE_COUNT);
    for (uint32_t index = 0; index < plan->chunks_per_segment; index += 1) {
        const struct value_key key = key_set_key(&plan->keys, first_number + index);
        struct table_entry *entry = &table[index];
        *entry = (struct table_entry){
            .kind = KIND_CHUNK,
            .block = 1 + index * plan->record_block_count,
            .record_block_count = plan->record_block_count,
            .payload_byte_count = (uint32_t)plan->keys.value_byte_count,
            .sequence = first_number + index + 1,
        };
        memcpy(entry->key, key.bytes, sizeof entry->key);
        memcpy(entry->namespace_tag, namespace_tag, sizeof entry->namespace_tag);
        entry->payload_checksum =
            payload == NULL ? mix64(first_number + index)
                            : write_record(plan, descriptor, &key, entry, header.nonce, payload);
    }
    struct trailer_block trailer = {
        .version = FORMAT_VERSION,
        .entry_count = plan->chunks_per_segment,
        .nonce = header.nonce,
        .serial = header.serial,
        .table_checksum = checksum_xxh3(table, plan->chunks_per_segment * sizeof *table),
        .next_sequence = first_number + plan->chunks_per_segment + 1,
    };
    memcpy(trailer.magic, "KVSTRAIL", sizeof trailer.magic);
    trailer.checksum = block_checksum(&trailer);
    const uint64_t trailer_block = plan->segment_block_count - 1;
    write_at(plan, descriptor, trailer_block - table_block_count, table,
             table_block_count * BLOCK_BYTE_COUNT);
    write_at(plan, descriptor, trailer_block, &trailer, sizeof trailer);
    close(descriptor);
}

// Brings everything written to the disk, so that whoever measures next does not wait for it.
static void write_back(const struct plan *plan) {
    const int directory = open(plan->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0 || syncfs(directory) != 0) {
        fail("cannot write back %s: %s", plan->directory, strerror(errno));
    }
    close(directory);
}

int main(int argument_count, char **arguments) {
    struct plan plan = parse_options(argument_count, arguments);
    const uint64_t start = clock_nanoseconds();
    if (mkdir(plan.directory, 0700) != 0 && errno != EEXIST) {
        fail("cannot create %s: %s", plan.directory, strerror(errno));
    }
    random_id(plan.store_id, 1);
    write_identity(&plan);
    struct table_entry *table = calloc(
        block_count_of((uint64_t)plan.chunks_per_segment * sizeof *table), BLOCK_BYTE_COUNT);
    uint8_t *payload = plan.with_payloads ? memory_allocate(plan.keys.value_byte_count) : NULL;
    if (table == NULL) fail("out of memory");
    for (uint32_t slot = 0; slot < plan.segment_count; slot += 1) {
        write_segment(&plan, slot, table, payload);
    }
    write_back(&plan);
    printf("{\"segments\": %u, \"chunks\": %llu, \"value_bytes\": %zu, \"written_bytes\": %llu, "
           "\"seconds\": %.3f}\n",
           plan.segment_count, (unsigned long long)plan.keys.key_count,
           plan.keys.value_byte_count, (unsigned long long)plan.written_byte_count,
           (double)(clock_nanoseconds() - start) / 1e9);
    return 0;
}
