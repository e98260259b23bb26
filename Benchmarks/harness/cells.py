# SPDX-License-Identifier: Apache-2.0
"""The cells: what is measured side by side.

A cell's variants run in random order within each round.
"""

import fnmatch
from dataclasses import dataclass, field

KIB = 1024
MIB = 1024 * KIB

TCP_SYSTEMS = ("reference", "kvstore", "memcached", "redis")
# Between two small GETs beside bulk. Asked without a pause, client and server of the small GETs can
# keep one processor to themselves, by chance of placement, and nothing beside bulk is measured.
MIXED_PACE_MICROSECONDS = 1000
LOCAL_SYSTEMS = ("reference", "kvstore")


@dataclass(frozen=True)
class Variant:
    """One row of a cell: a system doing an operation."""

    system: str
    operation: str
    transport: str
    arguments: tuple = ()

    @property
    def name(self):
        return f"{self.system} {self.operation}"


@dataclass(frozen=True)
class Cell:
    name: str
    kind: str  # "tcp", "mixed", "lease" or "copy": which must-hold line it belongs to
    variants: tuple = field(default_factory=tuple)
    duration_factor: int = 1  # times --milliseconds: where operations are few, measure longer


def size_name(value_bytes):
    for unit, name in ((MIB, "m"), (KIB, "k")):
        if value_bytes % unit == 0:
            return f"{value_bytes // unit}{name}"
    return f"{value_bytes}b"


def words(**options):
    """--value-bytes 1 --connections 2 … as the load client takes them."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items())
    return tuple(word for pair in pairs for word in pair)


def tcp_cell(operation, value_bytes, connections):
    arguments = words(value_bytes=value_bytes, connections=connections)
    return Cell(
        f"{operation}-{size_name(value_bytes)}-c{connections}", "tcp",
        tuple(Variant(system, operation, "tcp", arguments) for system in TCP_SYSTEMS),
        duration_factor=2 if value_bytes > 8 * MIB else 1)


def mixed_cell(value_bytes, background_value_bytes, background_connections):
    arguments = words(
        value_bytes=value_bytes, connections=1, keys_max=1024,
        pace_microseconds=MIXED_PACE_MICROSECONDS, background_value_bytes=background_value_bytes,
        background_connections=background_connections)
    return Cell(
        f"mixed-{size_name(value_bytes)}", "mixed",
        tuple(Variant(system, "get", "tcp", arguments) for system in TCP_SYSTEMS),
        duration_factor=6)


def lease_cell(value_bytes):
    arguments = words(value_bytes=value_bytes, connections=1, keys_max=1024)
    return Cell(
        f"lease-{size_name(value_bytes)}", "lease",
        tuple(Variant(system, operation, "unix", arguments)
              for system in LOCAL_SYSTEMS for operation in ("ping", "lease")))


def copy_cell(value_bytes, batch):
    arguments = words(value_bytes=value_bytes, connections=1, keys_max=1024, batch=batch)
    return Cell(
        f"copy-{size_name(value_bytes)}-b{batch}", "copy",
        tuple(Variant(system, operation, "unix", arguments)
              for system in LOCAL_SYSTEMS for operation in ("memcpy", "lease-copy")))


def full_cells():
    cells = [
        tcp_cell(operation, value_bytes, connections)
        for operation in ("get", "put")
        for value_bytes in (1 * MIB, 4 * MIB, 32 * MIB)
        for connections in (1, 4)
    ]
    cells.append(mixed_cell(4 * KIB, 4 * MIB, 2))
    cells += [lease_cell(size) for size in (4 * KIB, 1 * MIB, 4 * MIB, 32 * MIB)]
    cells += [copy_cell(1 * MIB, 1), copy_cell(1 * MIB, 64), copy_cell(4 * MIB, 1),
              copy_cell(4 * MIB, 16), copy_cell(32 * MIB, 1)]
    return cells


def quick_cells():
    """Small sizes, odd ones among them: correctness of every driver, not speed."""
    return [
        tcp_cell("get", 64 * KIB, 2), tcp_cell("get", 4097, 1), tcp_cell("get", 1, 1),
        tcp_cell("put", 64 * KIB, 2), tcp_cell("put", 4097, 1), tcp_cell("put", 1, 1),
        mixed_cell(4 * KIB, 256 * KIB, 2), lease_cell(64 * KIB), copy_cell(64 * KIB, 16),
    ]


def select(cells, patterns):
    """The cells whose name matches one of the comma-separated patterns."""
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    return [cell for cell in cells if any(fnmatch.fnmatch(cell.name, each) for each in wanted)]
