"""How many processors a process may use; the groups are files as Linux shows them."""

import os
from pathlib import Path

import pytest

from workers.processors import usable_processors

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


V2 = {"proc/self/cgroup": "0::/system.slice/bridge.service"}
V1 = {"proc/self/cgroup": "5:devices:/\n4:cpu,cpuacct:/docker/abc\n0::/"}
GROUP = "sys/fs/cgroup/system.slice/bridge.service"


def v1(group: str, quota: str) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{group}"
    return {**V1, f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ALL),
        (V2, ALL),
        ({**V2, f"{GROUP}/cpu.max": "max 100000"}, ALL),
        ({**V2, f"{GROUP}/cpu.max": "100000 100000"}, 1),
        ({**V2, f"{GROUP}/cpu.max": "50000 100000"}, 1),
        ({**V2, f"{GROUP}/cpu.max": "6400000 100000"}, min(ALL, 64)),
        ({**V2, f"{GROUP}/cpu.max": "max 100000", "sys/fs/cgroup/system.slice/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        ({**V2, f"{GROUP}/cpu.max": "nonsense"}, ALL),
        ({"proc/self/cgroup": "nonsense"}, ALL),
        (V1, ALL),
        (v1("cpu", "-1"), ALL),
        (v1("cpu", "150000"), 1),
        (v1("cpu,cpuacct/docker/abc", "100000"), 1),
    ],
)
def test_the_quota_of_a_group_and_of_those_above_it_holds(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert usable_processors(tmp_path) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors are not assigned here")
def test_processors_that_others_have_are_not_counted(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_processors(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)
