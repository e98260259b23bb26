# SPDX-License-Identifier: Apache-2.0
"""A store with the client's interface and no daemon, for adapter tests."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import kvstore


class LeaseInMemory:
    """Views of chunks. As in the client, what still looks at them afterwards is an error."""

    def __init__(self, store: StoreInMemory, keys: Sequence[bytes]) -> None:
        self._store = store
        self._keys = keys
        self._copies: list[bytearray] = []

    def __enter__(self) -> list[memoryview | None]:
        if not self._store.shares_memory:
            raise kvstore.Unsupported("no shared memory here")
        self._store._call("lease")
        self._views: list[memoryview | None] = []
        for key in self._keys:
            chunk = self._store.chunks.get(key)
            self._copies.append(bytearray(chunk or b""))
            view = memoryview(self._copies[-1]).toreadonly()
            self._views.append(None if chunk is None else view)
        return list(self._views)

    def still_valid(self) -> bool:
        return self._store.leases_last

    def __exit__(self, *_: object) -> None:
        for view in self._views:
            if view is not None:
                view.release()
        for copy in self._copies:
            copy.append(0)  # raises BufferError if anybody still holds the memory
        self._store._call("release")


class StoreInMemory:
    """Chunks in a dictionary. `fault` is raised by the named operation if set."""

    def __init__(self, *, shares_memory: bool = True) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.shares_memory = shares_memory
        self.leases_last = True
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

    def describe_layout(self, description) -> bytes:
        self._call("describe_layout")
        return kvstore.layout_id(description)

    def put(self, key: bytes, parts, *, layout_id=bytes(16), time_to_live_milliseconds=0,
            first_position=None) -> bool:
        self._call("put")
        is_new = key not in self.chunks
        self.chunks.setdefault(key, bytes(parts))
        return is_new

    def get_many(self, keys: Sequence[bytes]) -> list[bytearray | None]:
        self._call("get_many")
        found = [self.chunks.get(key) for key in keys]
        return [None if chunk is None else bytearray(chunk) for chunk in found]

    def lease(self, keys: Sequence[bytes]) -> LeaseInMemory:
        return LeaseInMemory(self, keys)

    def delete(self, keys: Sequence[bytes]) -> int:
        self._call("delete")
        return sum(self.chunks.pop(key, None) is not None for key in keys)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults[name]
