"""How many processors this process may use, which containers and `taskset` make fewer than the computer has.

Linux limits processor time by a cgroup's quota of each period: version 2 has `cpu.max` ("max 100000" or "QUOTA
PERIOD"), version 1 `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`. See cgroups(7) and the kernel's
admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst. The quota of every group above holds as well.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_CONTROLLER = "cpu"
_V1_FOLDERS = ("cpu", "cpu,cpuacct")


def usable_processors(root: Path = Path("/")) -> int:
    """Return how many processors this process may use, at least 1; `root` is where /proc and /sys are."""
    quotas = [quota for quota in _quotas(root) if quota > 0]
    return max(1, int(min([_allowed(), *quotas])))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield what each cgroup of this process allows, in processors."""
    for version, path in _groups(root):
        for folder in _folders(root / "sys/fs/cgroup", version, path):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                yield _quota(folder, version)


def _groups(root: Path) -> Iterator[tuple[int, str]]:
    """Yield version and path of the groups that may limit processor time: "0::/PATH" or "4:cpu,cpuacct:/PATH"."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            if number == "0" and not controllers:
                yield 2, path
            elif _CONTROLLER in controllers.split(","):
                yield 1, path


def _folders(mount: Path, version: int, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of all above it. In a container the group may itself be what is mounted."""
    for top in [mount] if version == 2 else [mount / name for name in _V1_FOLDERS]:
        folder = top / path.strip("/")
        yield from (one for one in (folder, *folder.parents) if one.is_relative_to(top))


def _quota(folder: Path, version: int) -> float:
    if version == 2:
        quota, period = (folder / "cpu.max").read_text().split()
        return 0.0 if quota == "max" else int(quota) / int(period)
    return int((folder / "cpu.cfs_quota_us").read_text()) / int((folder / "cpu.cfs_period_us").read_text())
