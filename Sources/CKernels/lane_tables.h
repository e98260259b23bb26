// SPDX-License-Identifier: Apache-2.0
#ifndef CKERNELS_LANE_TABLES_H
#define CKERNELS_LANE_TABLES_H

#include <stdint.h>

/// For each mask, eight lane numbers: how many bits are set below each lane.
extern const uint8_t ckernels_spread_lanes[256][8];
/// For each mask, the lanes whose bits are set, in the last places.
extern const uint8_t ckernels_gathered_lanes[256][8];

#endif
