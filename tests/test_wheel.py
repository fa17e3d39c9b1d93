"""What is installed: the wheel as `pip install` would get it."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_product_and_no_studies(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in files if name.endswith("/entry_points.txt"))
    assert {name.partition("/")[0] for name in files if ".dist-info/" not in name} == {"app", "workers", "scripts"}
    assert {name for name in files if name.startswith("scripts/")} == {"scripts/__init__.py", "scripts/make_call.py"}
    assert "make-call = scripts.make_call:main" in entry_points
    sources = [path for folder in ("app", "workers") for path in (ROOT / folder).rglob("*") if path.is_file()]
    ours = {str(path.relative_to(ROOT)) for path in sources if "__pycache__" not in path.parts}
    assert ours <= files


def pinned(accelerator: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{accelerator}.txt").read_text().splitlines()
    parts = (line.split()[0].partition("==") for line in lines if "==" in line and not line.startswith(" "))
    return {name: version for name, _, version in parts}


def test_what_computes_is_not_installed_where_moshi_runs_elsewhere() -> None:
    none, cpu = pinned("none"), pinned("cpu")
    assert none.items() < cpu.items()
    computes = {"mlx", "moshi-mlx", "rustymimi", "sentencepiece", "safetensors", "huggingface-hub"}
    assert computes <= cpu.keys() - none.keys()
    assert {"fastapi", "sphn", "websockets", "numpy"} <= none.keys()
