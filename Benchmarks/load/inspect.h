// SPDX-License-Identifier: Apache-2.0
//
// Questions to a server that are asked once, not measured. Both print one line of JSON.
#ifndef INSPECT_H
#define INSPECT_H

#include "keys.h"

// The server's counters.
void inspect_counters(const struct driver *driver, struct connection *connection);

// How many keys of the set are stored.
void inspect_presence(const struct driver *driver, struct connection *connection,
                      const struct key_set *set);

#endif
