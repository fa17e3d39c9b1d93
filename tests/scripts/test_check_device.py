"""The check of a device: each section by itself, nothing lost, and a dry run of all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_device import Section, check, sections

ONE = '{"what": "one", "ms": 1.5}'


def python(name: str, program: str, limit_s: float = 60) -> Section:
    return Section(name, [sys.executable, "-c", program], limit_s)


def test_a_section_that_fails_or_hangs_keeps_what_it_found_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    wanted = [
        python("fails", f"print('{ONE}', flush=True); raise MemoryError('no room')"),
        python("hangs", f"print('{ONE}', flush=True); import time; time.sleep(600)", limit_s=2),
        python("talks", f"print('words'); print('{ONE}')"),
    ]
    assert check(wanted, path, dry_run=True) == 1
    found = json.loads(path.read_text())["sections"]
    assert {name: section["status"] for name, section in found.items()} == {
        "fails": "MemoryError: no room",
        "hangs": "out of time",
        "talks": "done",
    }
    assert all(section["found"] == [json.loads(ONE)] for section in found.values())


def test_other_tokens_than_the_cpus_are_a_failure(tmp_path: Path) -> None:
    said = [python("tokens", f"""print('{{"what": "tokens", "equal": {equal}}}')""") for equal in ("true", "false")]
    assert [check([one], tmp_path / "figures.json", dry_run=True) for one in said] == [0, 1]


def test_the_limits_of_all_sections_are_less_than_eight_minutes() -> None:
    assert sum(section.limit_s for section in sections(dry_run=False)) < 480


@pytest.mark.slow
def test_a_dry_run_needs_no_device(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, "-m", "scripts.check_device", "--dry-run", "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(path.read_text())["sections"]
    assert list(found) == ["memory", "tokens", "q4", "bf16", "codec", "pipeline"]
    assert all(section["found"] for section in found.values())
    for name in found:
        assert name in run.stdout
