// SPDX-License-Identifier: Apache-2.0
#include "kvstore.h"
typedef int ckvstore_placeholder;
