# SPDX-License-Identifier: Apache-2.0
"""The rows of the SSD benchmarks: one line each, `name: key=value ...`, median and spread."""

from statistics import median

SPEED = "gigabytes_per_second"
CPU = "server_cpu_seconds_per_gigabyte"
P50 = "p50_microseconds"
P99 = "p99_microseconds"


def number(value):
    """Three significant digits at least, no exponent."""
    if isinstance(value, (int, str)):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4f}" if abs(value) < 1 else (
        f"{value:.2f}")


def row(name, **fields):
    print(f"{name}: " + " ".join(f"{key}={number(value)}" for key, value in fields.items()),
          flush=True)


class Results:
    """All measured rows, each a dictionary that names its kind, place and round."""

    def __init__(self):
        self.rows = []

    def add(self, kind, place, round_number, measured):
        self.rows.append({**measured, "kind": kind, **place, "round": round_number})

    def select(self, kind, **place):
        return [row for row in self.rows if row["kind"] == kind
                and all(row[key] == value for key, value in place.items())]

    def places(self, kind, *keys):
        """The different values of `keys`, in the order of their first measurement, sorted."""
        return sorted({tuple(row[key] for key in keys) for row in self.rows if row["kind"] == kind})

    def ratios(self, kind, field, left, right):
        """field of `left` over field of `right`, both places, round by round."""
        left_rows = {row["round"]: row for row in self.select(kind, **left)}
        right_rows = {row["round"]: row for row in self.select(kind, **right)}
        return [left_rows[each][field] / right_rows[each][field]
                for each in sorted(left_rows.keys() & right_rows.keys())
                if right_rows[each][field]]


def spread(rows, field):
    values = [each[field] for each in rows]
    return {"min": min(values), "max": max(values)}


def middle(rows, field):
    return median(each[field] for each in rows)


def print_transfers(results):
    """Reads and writes: speed, CPU, and the ratio to fio of the same round."""
    for value_bytes, depth, operation, system in results.places(
            "transfer", "value_bytes", "depth", "operation", "system"):
        rows = results.select("transfer", value_bytes=value_bytes, depth=depth,
                              operation=operation, system=system)
        more = {}
        if "ssd_share" in rows[0]:
            more["from_memory"] = 1 - middle(rows, "ssd_share")
        if any(each.get("busy") for each in rows):
            more["busy_answers"] = max(each["busy"] for each in rows)
        row("ssd", system=system, op=operation, value_bytes=value_bytes, depth=depth,
            gbps=middle(rows, SPEED), **spread(rows, SPEED), cpu_s_per_gb=middle(rows, CPU),
            p50_us=middle(rows, P50), p99_us=middle(rows, P99), **more)
    yardsticks = {"read": ("read",), "get_tcp": ("read",), "write": ("write", "write_fsync"),
                  "put_unix": ("write",)}
    for value_bytes, depth, operation in results.places(
            "transfer", "value_bytes", "depth", "operation"):
        for yardstick in yardsticks.get(operation, ()):
            place = {"value_bytes": value_bytes, "depth": depth}
            own = {**place, "operation": operation, "system": "kvstored"}
            other = {**place, "operation": yardstick, "system": "fio"}
            speeds = results.ratios("transfer", SPEED, own, other)
            costs = results.ratios("transfer", CPU, own, other)
            if speeds and costs:
                row("ssd-ratio", op=operation, to=f"fio_{yardstick}", **place,
                    speed=median(speeds), min=min(speeds), max=max(speeds), cpu=median(costs))


def print_durable(results):
    for value_bytes, clients, system in results.places(
            "durable", "value_bytes", "clients", "system"):
        rows = results.select("durable", value_bytes=value_bytes, clients=clients, system=system)
        row("ssd-durable", system=system, value_bytes=value_bytes, clients=clients,
            p50_us=middle(rows, P50), p99_us=middle(rows, P99), p99_min=spread(rows, P99)["min"],
            p99_max=spread(rows, P99)["max"], gbps=middle(rows, SPEED))


def print_amplification(results):
    for (value_bytes,) in results.places("amplification", "value_bytes"):
        rows = results.select("amplification", value_bytes=value_bytes)
        total = {key: sum(each[key] for each in rows)
                 for key in ("payload_bytes", "device_bytes", "kernel_bytes")}
        row("ssd-amplification", value_bytes=value_bytes, **total,
            ratio=total["device_bytes"] / total["payload_bytes"],
            kernel_ratio=total["kernel_bytes"] / total["payload_bytes"])


def print_interference(results):
    for connections, ingest in results.places("interference", "connections", "ingest"):
        rows = results.select("interference", connections=connections, ingest=ingest)
        row("ssd-interference", connections=connections, ingest=ingest, gbps=middle(rows, SPEED),
            **spread(rows, SPEED), p50_us=middle(rows, P50), p99_us=middle(rows, P99),
            ingest_gbps=middle(rows, "background_gigabytes_per_second"),
            ssd_reads=sum(each["ssd_reads"] for each in rows))
    for connections, ingest in results.places("interference", "connections", "ingest"):
        if ingest == "off":
            continue
        own = {"connections": connections, "ingest": ingest}
        alone = {"connections": connections, "ingest": "off"}
        speeds = results.ratios("interference", SPEED, own, alone)
        latencies = results.ratios("interference", P99, own, alone)
        row("ssd-interference-ratio", connections=connections, speed=median(speeds),
            min=min(speeds), max=max(speeds), p99=median(latencies))


def print_codec(results):
    for (level,) in results.places("codec", "level"):
        rows = results.select("codec", level=level)
        row("ssd-codec", level=level, gbps=middle(rows, SPEED), **spread(rows, SPEED),
            p50_us=middle(rows, P50), p99_us=middle(rows, P99),
            stored_bytes=middle(rows, "stored_bytes"),
            encoded_bytes=middle(rows, "encoded_bytes"),
            ssd_reads=sum(each["ssd_reads"] for each in rows))
        speeds = results.ratios("codec", SPEED, {"level": level}, {"level": "raw"})
        if level != "raw" and speeds:
            row("ssd-codec-ratio", level=level, speed=median(speeds), min=min(speeds),
                max=max(speeds))


def print_all(results):
    print_transfers(results)
    print_durable(results)
    print_amplification(results)
    print_interference(results)
    print_codec(results)
