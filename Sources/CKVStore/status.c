// SPDX-License-Identifier: Apache-2.0
#include "kvstore.h"

uint32_t kvs_abi_version(void) { return KVS_ABI_VERSION; }

const char *kvs_status_text(kvs_status status) {
    switch (status) {
    case KVS_OK: return "ok";
    case KVS_NOT_FOUND: return "not found";
    case KVS_EXISTS: return "exists";
    case KVS_BUSY: return "busy";
    case KVS_TOO_LARGE: return "too large";
    case KVS_DEADLINE_EXCEEDED: return "deadline exceeded";
    case KVS_CHECKSUM_MISMATCH: return "checksum mismatch";
    case KVS_UNAUTHORIZED: return "unauthorized";
    case KVS_UNSUPPORTED: return "unsupported";
    case KVS_MALFORMED: return "malformed";
    case KVS_VERSION_MISMATCH: return "version mismatch";
    case KVS_HELLO_REQUIRED: return "hello required";
    case KVS_NO_LEASE: return "no lease";
    case KVS_SHUTTING_DOWN: return "shutting down";
    case KVS_LIMIT_EXCEEDED: return "limit exceeded";
    case KVS_LAYOUT_MISMATCH: return "layout mismatch";
    case KVS_INTERNAL: return "internal";
    case KVS_NOT_DURABLE: return "not durable";
    case KVS_CANNOT_CONNECT: return "cannot connect";
    case KVS_CONNECTION_LOST: return "connection lost";
    case KVS_INVALID_ARGUMENT: return "invalid argument";
    case KVS_OUT_OF_MEMORY: return "out of memory";
    case KVS_FORKED: return "belongs to the parent process";
    case KVS_DESTINATION_TOO_SMALL: return "destination too small";
    case KVS_DAMAGED: return "damaged";
    case KVS_PROTOCOL_ERROR: return "protocol error";
    case KVS_LEASE_ENDED: return "lease ended";
    case KVS_WRONG_STATE: return "wrong state";
    case KVS_SYSTEM: return "system error";
    case KVS_NOT_DECODED: return "not decoded";
    }
    return "unknown status";
}
