// SPDX-License-Identifier: Apache-2.0
//
// What an engine does around a prompt: name its chunks, ask how much of it is stored, load that,
// store the rest. The "KV tensors" are made up here.
//
//   cc example.c $(pkg-config --cflags --libs kvstore) -o example
//   ./example unix:/run/kvstored/kvstored.sock
#include <kvstore.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_COUNT = 1024, CHUNK_COUNT = TOKEN_COUNT / KVS_CHUNK_TOKEN_COUNT_DEFAULT };
enum { LAYER_COUNT = 4, LAYER_BYTE_COUNT = 64 * 1024 };

/// A failing cache never stops an engine: it says why and computes.
static int explain(const kvs_client *client, const char *what, kvs_status status) {
    fprintf(stderr, "%s: %s: %s\n", what, kvs_status_text(status), kvs_last_error_text(client));
    return 1;
}

/// Everything that changes what the bytes mean goes in here.
static kvs_layout describe_model(void) {
    const kvs_layout_field fields[] = {
        {"model", "example-model-hash"},
        {"dtype", "bf16"},
        {"layers", "4"},
        {"chunk_tokens", "256"},
    };
    kvs_layout layout;
    if (kvs_layout_id(fields, sizeof fields / sizeof fields[0], &layout) != KVS_OK) {
        exit(1);
    }
    return layout;
}

static int load(kvs_client *client, const kvs_key *keys, size_t count,
                unsigned char layers[][LAYER_COUNT][LAYER_BYTE_COUNT]) {
    kvs_span spans[CHUNK_COUNT][LAYER_COUNT];
    kvs_destination destinations[CHUNK_COUNT];
    kvs_get_result results[CHUNK_COUNT];
    for (size_t chunk = 0; chunk < count; chunk += 1) {
        for (size_t layer = 0; layer < LAYER_COUNT; layer += 1) {
            // Scattered straight to where each layer wants its part.
            spans[chunk][layer] = (kvs_span){layers[chunk][layer], LAYER_BYTE_COUNT};
        }
        destinations[chunk] = (kvs_destination){spans[chunk], LAYER_COUNT};
    }
    kvs_status status = kvs_get(client, keys, count, destinations, results, NULL, 200);
    if (status != KVS_OK) {
        return explain(client, "get", status);
    }
    for (size_t chunk = 0; chunk < count; chunk += 1) {
        printf("chunk %zu: %s, %llu bytes\n", chunk, kvs_status_text(results[chunk].status),
               (unsigned long long)results[chunk].byte_count);
    }
    return 0;
}

static int store(kvs_client *client, const kvs_key *key, const kvs_layout *layout,
                 unsigned char layers[LAYER_COUNT][LAYER_BYTE_COUNT]) {
    kvs_put_options options = {.layout = *layout, .time_to_live_milliseconds = 3600 * 1000};
    kvs_status status =
        kvs_put_begin(client, key, (uint64_t)LAYER_COUNT * LAYER_BYTE_COUNT, &options, 500);
    for (size_t layer = 0; layer < LAYER_COUNT && status == KVS_OK; layer += 1) {
        memset(layers[layer], (int)layer, LAYER_BYTE_COUNT);  // "compute" the layer
        kvs_const_span part = {layers[layer], LAYER_BYTE_COUNT};
        status = kvs_put_append(client, &part, 1);  // it travels while the next is computed
    }
    if (status == KVS_OK) {
        status = kvs_put_finish(client);
    }
    if (status != KVS_OK && status != KVS_EXISTS) {
        return explain(client, "put", status);
    }
    return 0;
}

int main(int argument_count, char **arguments) {
    static unsigned char layers[CHUNK_COUNT][LAYER_COUNT][LAYER_BYTE_COUNT];
    uint32_t tokens[TOKEN_COUNT];
    kvs_key keys[CHUNK_COUNT];
    kvs_client *client = NULL;
    size_t key_count = 0, prefix_count = 0;
    if (argument_count != 2) {
        fprintf(stderr, "usage: example unix:/path | tcp:host:port\n");
        return 2;
    }
    kvs_status status = kvs_open(arguments[1], NULL, &client);
    if (status != KVS_OK) {
        return explain(client, arguments[1], status);
    }
    for (uint32_t index = 0; index < TOKEN_COUNT; index += 1) {
        tokens[index] = index;
    }
    kvs_layout layout = describe_model();
    status = kvs_prefix_keys(client, &layout, tokens, TOKEN_COUNT, KVS_CHUNK_TOKEN_COUNT_DEFAULT,
                             keys, &key_count);
    if (status == KVS_OK) {
        status = kvs_lookup_prefix(client, keys, key_count, &prefix_count, NULL, 0);
    }
    if (status != KVS_OK) {
        explain(client, "lookup", status);
        kvs_close(client);
        return 1;
    }
    printf("%zu of %zu chunks are stored\n", prefix_count, key_count);
    int failed = load(client, keys, prefix_count, layers);
    for (size_t chunk = prefix_count; chunk < key_count && !failed; chunk += 1) {
        failed = store(client, &keys[chunk], &layout, layers[chunk]);
    }
    kvs_close(client);
    return failed;
}
