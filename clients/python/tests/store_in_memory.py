# SPDX-License-Identifier: Apache-2.0
"""A store with the client's interface and no daemon, for adapter tests."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator, Sequence

import kvstore


class StoreInMemory:
    """Chunks in a dictionary. `fault` is raised by the named operation if set."""

    def __init__(self, *, shares_memory: bool = True) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.shares_memory = shares_memory
        self.calls: list[str] = []
        self.faults: dict[str, Exception] = {}

    def prefix_keys(self, layout_id: bytes, tokens: Sequence[int], chunk_tokens: int = 256):
        keys, parent = [], bytes(32)
        for start in range(0, len(tokens) - chunk_tokens + 1, chunk_tokens):
            part = struct.pack(f"<{chunk_tokens}I", *tokens[start : start + chunk_tokens])
            parent = hashlib.sha256(layout_id + parent + part).digest()
            keys.append(parent)
        return keys

    def lookup_prefix(self, keys: Sequence[bytes]) -> int:
        self._call("lookup_prefix")
        return next((i for i, key in enumerate(keys) if key not in self.chunks), len(keys))

    def put(self, key: bytes, parts, *, layout_id=bytes(16), time_to_live_milliseconds=0) -> bool:
        self._call("put")
        is_new = key not in self.chunks
        self.chunks.setdefault(key, bytes(parts))
        return is_new

    def get_many(self, keys: Sequence[bytes]) -> list[bytearray | None]:
        self._call("get_many")
        found = [self.chunks.get(key) for key in keys]
        return [None if chunk is None else bytearray(chunk) for chunk in found]

    @contextlib.contextmanager
    def lease(self, keys: Sequence[bytes]) -> Iterator[list[memoryview | None]]:
        if not self.shares_memory:
            raise kvstore.Unsupported("no shared memory here")
        self._call("lease")
        found = [self.chunks.get(key) for key in keys]
        yield [None if chunk is None else memoryview(chunk) for chunk in found]
        self._call("release")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults[name]
