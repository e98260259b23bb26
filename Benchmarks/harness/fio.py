# SPDX-License-Identifier: Apache-2.0
"""fio, the yardstick of the SSD tier: the same reads and writes without a store around them."""

import json
import shutil
import subprocess

from .servers import HarnessError

LAYOUT_BLOCK_BYTES = 4 << 20
FIO_SECONDS_MAX = 300
HUGE_PAGES_FREE = "HugePages_Free:"


def is_installed():
    return shutil.which("fio") is not None


def huge_pages_free():
    with open("/proc/meminfo") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(HUGE_PAGES_FREE)), 0)


class Fio:
    """One file and the runs over it. io_uring, O_DIRECT, registered buffers, one thread."""

    def __init__(self, path, prefix, random, huge_pages):
        self.path = path
        self.prefix = prefix
        self.random = random
        self.huge_pages = huge_pages
        self.byte_count = 0

    def command(self, *words):
        return self.prefix + [
            "fio", "--name=fio", f"--filename={self.path}", f"--size={self.byte_count}",
            "--ioengine=io_uring", "--direct=1", "--thread", "--output-format=json",
            f"--randseed={self.random.getrandbits(31)}", *words]

    def call(self, *words):
        command = self.command(*words)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FIO_SECONDS_MAX, check=False)
        # Notes may precede the JSON text.
        start = done.stdout.find("{")
        if done.returncode != 0 or start < 0:
            raise HarnessError(f"fio failed: {' '.join(command)}\n{done.stderr.strip()}")
        job = json.loads(done.stdout[start:])["jobs"][0]
        if job["error"] != 0:
            raise HarnessError(f"fio reports error {job['error']}: {' '.join(command)}")
        return job

    def lay_out(self, byte_count):
        """Writes the whole file once, so that later runs meet blocks that exist."""
        self.byte_count = byte_count
        self.call("--rw=write", f"--bs={min(LAYOUT_BLOCK_BYTES, byte_count)}", "--iodepth=4",
                  "--fallocate=posix", "--end_fsync=1")

    def remove(self):
        self.path.unlink(missing_ok=True)

    def measure(self, operation, value_bytes, depth, milliseconds):
        """One row. Operations: `read`, at random; `write`, in sequence, each write on stable
        storage when it completes (O_DSYNC); `write_fsync`, in sequence with one fsync(2) at the
        end."""
        words = {"read": ("--rw=randread",), "write": ("--rw=write", "--sync=dsync"),
                 "write_fsync": ("--rw=write", "--end_fsync=1")}[operation]
        memory = ("--mem=mmaphuge",) if self.huge_pages else ()
        job = self.call(
            *words, *memory, "--fixedbufs", f"--bs={value_bytes}", f"--iodepth={depth}",
            "--time_based", f"--runtime={milliseconds}ms")
        moved = job["read" if operation == "read" else "write"]
        gigabytes = moved["io_bytes"] / 1e9
        cpu_seconds = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
        percentiles = moved["clat_ns"]["percentile"]
        return {"gigabytes_per_second": moved["bw_bytes"] / 1e9,
                "server_cpu_seconds_per_gigabyte": cpu_seconds / gigabytes,
                "p50_microseconds": percentiles["50.000000"] / 1e3,
                "p99_microseconds": percentiles["99.000000"] / 1e3}
