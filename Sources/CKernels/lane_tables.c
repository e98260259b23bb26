// SPDX-License-Identifier: Apache-2.0
//
// AVX2 has no instruction that moves the lanes of a mask together or apart; these tables say where
// each lane goes.
#include "lane_tables.h"

#define BIT(mask, lane) ((mask) >> (lane) & 1)
#define BELOW_2(mask) (BIT(mask, 0) + BIT(mask, 1))
#define BELOW_4(mask) (BELOW_2(mask) + BELOW_2((mask) >> 2))
#define BELOW_8(mask) (BELOW_4(mask) + BELOW_4((mask) >> 4))
/// Set bits below `lane`.
#define RANK(mask, lane) BELOW_8((mask) & ((1 << (lane)) - 1))

#define SPREAD(mask) { \
    RANK(mask, 0), RANK(mask, 1), RANK(mask, 2), RANK(mask, 3), \
    RANK(mask, 4), RANK(mask, 5), RANK(mask, 6), RANK(mask, 7) }

/// `lane` when it is the set one that belongs at `place`, 0 otherwise.
#define IF_AT(mask, place, lane) \
    (BIT(mask, lane) && RANK(mask, lane) + 8 - BELOW_8(mask) == (place) ? (lane) : 0)
#define AT(mask, place) \
    IF_AT(mask, place, 1) + IF_AT(mask, place, 2) + IF_AT(mask, place, 3) \
    + IF_AT(mask, place, 4) + IF_AT(mask, place, 5) + IF_AT(mask, place, 6) \
    + IF_AT(mask, place, 7)
#define GATHERED(mask) { \
    AT(mask, 0), AT(mask, 1), AT(mask, 2), AT(mask, 3), \
    AT(mask, 4), AT(mask, 5), AT(mask, 6), AT(mask, 7) }

#define FOUR(row, mask) row(mask), row((mask) + 1), row((mask) + 2), row((mask) + 3)
#define SIXTEEN(row, mask) \
    FOUR(row, mask), FOUR(row, (mask) + 4), FOUR(row, (mask) + 8), FOUR(row, (mask) + 12)
#define SIXTY_FOUR(row, mask) \
    SIXTEEN(row, mask), SIXTEEN(row, (mask) + 16), SIXTEEN(row, (mask) + 32), \
    SIXTEEN(row, (mask) + 48)
#define ALL(row) \
    SIXTY_FOUR(row, 0), SIXTY_FOUR(row, 64), SIXTY_FOUR(row, 128), SIXTY_FOUR(row, 192)

const uint8_t ckernels_spread_lanes[256][8] = {ALL(SPREAD)};
const uint8_t ckernels_gathered_lanes[256][8] = {ALL(GATHERED)};
