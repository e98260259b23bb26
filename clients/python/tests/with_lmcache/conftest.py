# SPDX-License-Identifier: Apache-2.0
"""A daemon for each test. See dev/test-lmcache."""
import tempfile

import pytest
from support import Daemon


@pytest.fixture
def daemon():
    with tempfile.TemporaryDirectory(prefix="kvstore-") as folder:
        made = Daemon(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()
