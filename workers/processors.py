"""How many processors this process may use, which containers and `taskset` make fewer than the computer has.

Linux limits processor time by a cgroup's quota of each period: version 2 has `cpu.max` ("max 100000" or "QUOTA
PERIOD"), version 1 `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`. See cgroups(7) and the kernel's
admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst. The quota of every group above holds as well.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def usable_processors(root: Path = Path("/")) -> int:
    """Return how many processors this process may use, at least 1; `root` is where /proc and /sys are."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas: list[float] = []
    for folder in _groups(root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quotas.append(_quota(folder))
    return max(1, int(min([allowed, *(quota for quota in quotas if quota > 0)])))


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that may limit processor time: "0::/PATH" or "4:cpu,cpuacct:/PATH".

    In a container the group may itself be what is mounted.
    """
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            versions = ["."] if number == "0" else ["cpu", "cpu,cpuacct"] if "cpu" in controllers.split(",") else []
            for top in (root / "sys/fs/cgroup" / name for name in versions):
                folder = top / path.strip("/")
                yield from (one for one in (folder, *folder.parents) if one.is_relative_to(top))


def _quota(folder: Path) -> float:
    """Return how many processors a group allows, 0 or less for no limit."""
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text().split()
        return 0.0 if quota == "max" else int(quota) / int(period)
    return int((folder / "cpu.cfs_quota_us").read_text()) / int((folder / "cpu.cfs_period_us").read_text())
