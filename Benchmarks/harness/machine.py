# SPDX-License-Identifier: Apache-2.0
"""What a reader must know of the machine and the tree to judge figures."""

import os
import platform
import subprocess
from pathlib import Path

from .servers import TOP


def first_line(path):
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return "?"


def lines(seed, prefix):
    """Commit, seed, processor, load, scheduler and huge pages, in two lines."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "-C", str(TOP), "rev-parse", "--short", "HEAD"],
                            capture_output=True, text=True, check=False).stdout.strip() or "?"
    huge = "/sys/kernel/mm/transparent_hugepage"
    return [
        f"commit {commit}, seed {seed}, Linux {platform.release()}, "
        f"{os.cpu_count()} x {model}, load average {os.getloadavg()[0]:.1f}",
        f"scheduler {'SCHED_FIFO' if prefix else 'normal'}; huge pages: anonymous "
        f"{first_line(huge + '/enabled')}, shared {first_line(huge + '/shmem_enabled')}, "
        f"reserved {first_line('/proc/sys/vm/nr_hugepages')}",
    ]
