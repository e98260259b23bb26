// SPDX-License-Identifier: Apache-2.0
#include "CZstd.h"

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

/// A frame that asks for more history than this is refused; ours ask for what they hold.
#define WINDOW_BYTE_COUNT_MAX ((size_t)1 << 27)

static ZSTD_parameters parameters_of(size_t byte_count, int way) {
    ZSTD_parameters parameters = ZSTD_getParams(1, byte_count, 0);
    if (way == CZSTD_SYMBOLS) {
        // A long match is the only one that could pay, and steps of 16 bytes cost next to nothing.
        parameters.cParams.minMatch = 7;
        parameters.cParams.targetLength = 16;
        parameters.cParams.hashLog = 10;
    }
    return parameters;
}

size_t czstd_packer_byte_count(size_t byte_count) {
    size_t fast = ZSTD_estimateCCtxSize_usingCParams(parameters_of(byte_count, CZSTD_FAST).cParams);
    size_t symbols =
        ZSTD_estimateCCtxSize_usingCParams(parameters_of(byte_count, CZSTD_SYMBOLS).cParams);
    return fast > symbols ? fast : symbols;
}

void *czstd_make_packer(void *area, size_t area_byte_count) {
    return ZSTD_initStaticCCtx(area, area_byte_count);
}

static int set(ZSTD_CCtx *packer, ZSTD_cParameter name, unsigned value) {
    return !ZSTD_isError(ZSTD_CCtx_setParameter(packer, name, (int)value));
}

size_t czstd_pack(void *packer, void *target, size_t capacity, const void *source,
                  size_t byte_count, int way) {
    ZSTD_compressionParameters chosen = parameters_of(byte_count, way).cParams;
    unsigned literals = way == CZSTD_SYMBOLS ? ZSTD_ps_enable : ZSTD_ps_auto;
    if (ZSTD_isError(ZSTD_CCtx_reset(packer, ZSTD_reset_session_and_parameters)) ||
        !set(packer, ZSTD_c_windowLog, chosen.windowLog) ||
        !set(packer, ZSTD_c_hashLog, chosen.hashLog) ||
        !set(packer, ZSTD_c_chainLog, chosen.chainLog) ||
        !set(packer, ZSTD_c_searchLog, chosen.searchLog) ||
        !set(packer, ZSTD_c_minMatch, chosen.minMatch) ||
        !set(packer, ZSTD_c_targetLength, chosen.targetLength) ||
        !set(packer, ZSTD_c_strategy, chosen.strategy) ||
        !set(packer, ZSTD_c_literalCompressionMode, literals))
        return 0;
    size_t result = ZSTD_compress2(packer, target, capacity, source, byte_count);
    return ZSTD_isError(result) ? 0 : result;
}

size_t czstd_unpacker_byte_count(void) {
    return ZSTD_estimateDCtxSize();
}

void *czstd_make_unpacker(void *area, size_t area_byte_count) {
    return ZSTD_initStaticDCtx(area, area_byte_count);
}

int czstd_unpack(void *unpacker, void *target, size_t target_byte_count, const void *source,
                 size_t source_byte_count) {
    ZSTD_frameHeader header;
    if (ZSTD_getFrameHeader(&header, source, source_byte_count) != 0) return 0;
    if (header.frameType != ZSTD_frame || header.frameContentSize != target_byte_count) return 0;
    if (header.windowSize > WINDOW_BYTE_COUNT_MAX || header.dictID != 0) return 0;
    if (ZSTD_findFrameCompressedSize(source, source_byte_count) != source_byte_count) return 0;
    size_t result = ZSTD_decompressDCtx(
        unpacker, target, target_byte_count, source, source_byte_count);
    return !ZSTD_isError(result) && result == target_byte_count;
}
