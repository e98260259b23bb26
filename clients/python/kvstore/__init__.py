# SPDX-License-Identifier: Apache-2.0
"""Client of kvstored, a cache for the KV tensors of inference engines.

A thin layer over libkvstore: bytes go between the daemon and any object with the buffer protocol
(bytes, bytearray, NumPy arrays; contiguous CPU tensors of torch too) with at most one copy.
"""
from kvstore.client import ChunkInfo, Client, layout_id
from kvstore.errors import (
    Busy,
    CannotConnect,
    ChecksumMismatch,
    ConnectionLost,
    Damaged,
    DeadlineExceeded,
    DestinationTooSmall,
    Error,
    Forked,
    Internal,
    InvalidArgument,
    LayoutMismatch,
    LeaseEnded,
    LimitExceeded,
    NoLease,
    OutOfMemory,
    ProtocolError,
    ShuttingDown,
    SystemRefused,
    TooLarge,
    Unauthorized,
    Unsupported,
    VersionMismatch,
    WrongState,
)

__all__ = [
    "Busy",
    "CannotConnect",
    "ChecksumMismatch",
    "ChunkInfo",
    "Client",
    "ConnectionLost",
    "Damaged",
    "DeadlineExceeded",
    "DestinationTooSmall",
    "Error",
    "Forked",
    "Internal",
    "InvalidArgument",
    "LayoutMismatch",
    "LeaseEnded",
    "LimitExceeded",
    "NoLease",
    "OutOfMemory",
    "ProtocolError",
    "ShuttingDown",
    "SystemRefused",
    "TooLarge",
    "Unauthorized",
    "Unsupported",
    "VersionMismatch",
    "WrongState",
    "layout_id",
]
