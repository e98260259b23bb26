// SPDX-License-Identifier: Apache-2.0
#ifndef CHECKSUM_H
#define CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

// XXH3-64 with seed 0, with the widest instructions that this processor has.
uint64_t checksum_xxh3(const void *bytes, size_t byte_count);

#endif
