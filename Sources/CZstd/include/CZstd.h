// SPDX-License-Identifier: Apache-2.0
//
// Doorway to libzstd: single frames between two areas, in memory that the caller provides. Any
// thread; one packer or unpacker serves one thread at a time.
#ifndef CZSTD_H
#define CZSTD_H

#include <stddef.h>

/// How `czstd_pack` works.
enum {
    /// Level 1: finds repetitions.
    CZSTD_FAST = 0,
    /// Hardly looks for repetitions, always codes single bytes by their frequency: for symbols
    /// whose order says nothing.
    CZSTD_SYMBOLS = 1,
};

/// Bytes of a packer for areas of up to `byte_count` bytes.
size_t czstd_packer_byte_count(size_t byte_count);
/// Makes a packer in `area`, aligned to 8, of at least that many bytes. NULL: it is too small.
void *czstd_make_packer(void *area, size_t area_byte_count);
/// Packs `byte_count` bytes into one frame that says its content's byte count, without checksum.
/// Returns the frame's byte count, or 0 when it does not fit in `capacity`.
size_t czstd_pack(void *packer, void *target, size_t capacity, const void *source,
                  size_t byte_count, int way);

/// Bytes of an unpacker.
size_t czstd_unpacker_byte_count(void);
/// Makes an unpacker in `area`, aligned to 8, of that many bytes. NULL: it is too small.
void *czstd_make_unpacker(void *area, size_t area_byte_count);
/// Unpacks exactly one frame that fills both areas. Returns 1, or 0 when `source` is not that.
int czstd_unpack(void *unpacker, void *target, size_t target_byte_count, const void *source,
                 size_t source_byte_count);

#endif
