// SPDX-License-Identifier: Apache-2.0
#ifndef KVSTORE_H
#define KVSTORE_H
#endif
