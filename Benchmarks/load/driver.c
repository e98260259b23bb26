// SPDX-License-Identifier: Apache-2.0
#include "driver.h"

#include <string.h>

const struct driver *driver_named(const char *name) {
    static const struct driver *const drivers[] = {&reference_driver, &kvstore_driver,
                                                   &memcached_driver, &redis_driver};
    for (size_t index = 0; index < sizeof drivers / sizeof drivers[0]; index += 1) {
        if (strcmp(drivers[index]->name, name) == 0) return drivers[index];
    }
    fail("no driver is called %s; there are reference, kvstore, memcached and redis", name);
}
