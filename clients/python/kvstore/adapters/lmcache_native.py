# SPDX-License-Identifier: Apache-2.0
"""LMCache's MP mode: the class for its `native_plugin` L2 adapter. docs/engines/lmcache.md.

LMCache calls from several threads and under locks of its own, so nothing here waits or raises for
the daemon's sake; its thread for completions polls `event_fd` and calls `drain_completions`.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvstore.adapters.lmcache_batches import Batches


class NativeConnector:
    """A connector in LMCache's sense. `options`: those of the table in docs/engines/lmcache.md."""

    def __init__(self, address: str, *, layout: Mapping[str, str | int | float] | None = None,
                 **options: Any):
        self._batches = Batches(
            address, description={**(layout or {}), "lmcache_mode": "mp"}, **options)

    def event_fd(self) -> int:
        """Readable while `drain_completions` has something to tell."""
        return self._batches.fileno()

    def submit_batch_get(self, keys: Sequence[str], buffers: Sequence[Any]) -> int:
        """Loads values of exactly the buffers' sizes."""
        return self._batches.submit_load(keys, [[buffer] for buffer in buffers])

    def submit_batch_set(self, keys: Sequence[str], buffers: Sequence[Any]) -> int:
        """Stores values."""
        return self._batches.submit_store(keys, [[buffer] for buffer in buffers])

    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        """Tells which values are stored."""
        return self._batches.submit_lookup(keys)

    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        """Deletes values."""
        return self._batches.submit_delete(keys)

    def drain_completions(self) -> list[tuple[int, bool, str, list[bool]]]:
        """Finished batches: (future id, no fault, its text, whether each key was had)."""
        return [(batch.number, batch.fault is None, batch.fault or "",
                 [byte_count is not None for byte_count in batch.byte_counts])
                for batch in self._batches.drain()]

    def close(self) -> None:
        """Ends what is under way; afterwards no buffer is touched any more."""
        self._batches.close()
