"""The rules of DESIGN.md §1 and §7 on who imports whom, read off the source files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIGHT = {
    "workers.messages",
    "workers.pipeline",
    "workers.processors",
    "workers.supervisor",
    "workers.process",
    "workers.liveness",
    "workers.link",
    "workers.wire",
    "workers.gc_freeze",
    "workers.lines",
    "workers.histogram",
}
"""What the app may import from the workers."""
PURE = ["app/audio"]
PURE += [f"app/calls/{name}.py" for name in ("admission", "idle", "record", "screening", "session", "statistics")]
PURE += [f"app/twilio/{name}.py" for name in ("errors", "events", "parties", "protocol", "status", "wire")]
PURE += ["app/telemetry/recording/timeline.py"]
"""Rules without I/O and without a clock."""
IMPURE = {
    *("asyncio", "socket", "selectors", "time", "datetime", "multiprocessing", "threading", "subprocess"),
    *("signal", "os", "logging", "fastapi", "starlette", "uvicorn", "websockets"),
}
ELSEWHERE = "scripts/side_by_side"
"""Servers of others that are measured beside ours, in an environment of their own."""
DOORS = {
    "rustymimi": {"workers/codec/rustymimi_codec.py"},
    "uvicorn": {"app/server/listener.py"},
    "soundfile": {
        "app/telemetry/recording/audio_files.py",
        "app/simulator/wav.py",
        "workers/checkpoints/synthetic/phrases.py",
    },
    "prometheus_client": {"app/telemetry/metrics/families.py"},
    "opentelemetry": {"app/telemetry/traces.py"},
}
"""Dependencies that only these modules may import."""
MLX = ("engine", "survey.py", "codec/mlx_step.py", "codec/choose.py")
"""Where in `workers` mlx is imported; codec/choose asks for its GPU."""
MODELS = {"mlx", "moshi_mlx", "rustymimi"}


def sources(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in ([ROOT / folder] if folder.endswith(".py") else [])]
    files += [path for folder in folders if not folder.endswith(".py") for path in (ROOT / folder).rglob("*.py")]
    assert files, folders
    return sorted(source for source in files if not source.is_relative_to(ROOT / ELSEWHERE))


def imports(source: Path) -> Iterator[str]:
    """Yield every module that a file imports anywhere, in functions too: `from a import b` is both a and a.b."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(files: list[Path], forbidden: set[str]) -> list[str]:
    """Return "file imports module" for every import whose package is forbidden."""
    return [
        f"{source.relative_to(ROOT)} imports {name}"
        for source in files
        for name in imports(source)
        if name.partition(".")[0] in forbidden
    ]


def test_the_workers_never_import_the_app() -> None:
    assert offenders(sources("workers"), {"app", "scripts", "tests"}) == []


def test_the_app_never_imports_a_model() -> None:
    assert offenders(sources("app"), MODELS) == []


def names_in(module: str) -> set[str]:
    """Return `module` itself and what `from module import …` may name of it."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {module} | {f"{module}.{name}" for name in defined}


SERVING = [f"app/{name}" for name in ("audio", "calls", "http", "server", "simulator", "telemetry", "twilio")]
SERVING += [f"app/{name}.py" for name in ("__main__", "config", "logging", "setting_sources", "cli/main")]
"""What runs in the service's own process."""


def test_what_serves_calls_imports_from_the_workers_only_what_is_light() -> None:
    allowed = {"workers"}.union(*map(names_in, LIGHT))
    wrong = [
        f"{source.relative_to(ROOT)} imports {name}"
        for source in sources(*SERVING)
        for name in imports(source)
        if name.partition(".")[0] == "workers" and name not in allowed
    ]
    assert wrong == []


LAYERS = ("audio", "twilio", "calls", "telemetry", "simulator", "http", "server", "cli")
"""The packages of the app, each knowing only those before it."""


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_knows_only_those_below_it(package: str) -> None:
    above = {f"app.{name}" for name in LAYERS[LAYERS.index(package) + 1 :]}
    wrong = [
        f"{source.relative_to(ROOT)} imports {name}"
        for source in sources(f"app/{package}")
        for name in imports(source)
        if ".".join(name.split(".")[:2]) in above
    ]
    assert wrong == []


def test_every_package_of_the_app_has_a_layer() -> None:
    assert {path.parent.name for path in (ROOT / "app").glob("*/__init__.py")} == set(LAYERS)


TOOLS = ["app/cli"]
"""What runs beside the service, in a process of its own."""


def test_what_judges_calls_may_know_what_the_stand_ins_say_but_nothing_of_how_a_worker_works() -> None:
    allowed = {"workers"}.union(*map(names_in, LIGHT))
    wrong = [
        f"{source.relative_to(ROOT)} imports {name}"
        for source in sources(*TOOLS)
        for name in imports(source)
        if name.partition(".")[0] == "workers"
        and name not in allowed
        and not name.startswith("workers.checkpoints.synthetic")
    ]
    assert wrong == []


def test_what_is_light_imports_no_station_and_no_model() -> None:
    files = sources(*(f"{module.replace('.', '/')}.py" for module in LIGHT))
    assert offenders(files, MODELS) == []
    ours = {name for source in files for name in imports(source) if name.startswith("workers.")}
    assert ours <= set().union(*map(names_in, LIGHT))


def test_the_rules_of_a_call_know_no_io_and_no_clock() -> None:
    assert offenders(sources(*PURE), IMPURE) == []


@pytest.mark.parametrize("dependency", DOORS)
def test_every_dependency_has_one_door(dependency: str) -> None:
    found = {
        str(source.relative_to(ROOT))
        for source in sources("app", "workers", "scripts")
        if dependency in {name.partition(".")[0] for name in imports(source)}
    }
    assert found == DOORS[dependency]


def test_mlx_stays_where_it_is_at_home() -> None:
    ours = sources("app", "workers", "scripts")
    files = [source for source in ours if not in_folder(source, *MLX) and source.name != "device_engine.py"]
    assert offenders(files, {"mlx", "moshi_mlx"}) == []


def in_folder(source: Path, *names: str) -> bool:
    return any(source.is_relative_to(ROOT / "workers" / name) for name in names)


def test_only_the_settings_read_the_environment() -> None:
    """Who starts a process hands the environment on to it; nobody else looks at it."""
    readers = [
        str(source.relative_to(ROOT))
        for source in sources("app", "workers")
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert set(readers) <= {
        "app/config.py",
        "app/cli/service_process.py",
        "app/server/service_tasks.py",
        "workers/process.py",
        "workers/codec/bench.py",
    }


def loaded_by(module: str) -> set[str]:
    """Return what is in `sys.modules` of a new process that has imported `module`."""
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["app.cli.main", "app.server.service"])
def test_the_app_starts_without_a_model_in_its_process(module: str) -> None:
    loaded = loaded_by(module)
    assert module in loaded
    assert not {name.partition(".")[0] for name in loaded} & (MODELS | {"torch", "sentencepiece", "safetensors"})
    assert not {name for name in loaded if name.startswith("opentelemetry.sdk")}, "unless TRACES_ENDPOINT is set"


def test_a_worker_that_has_not_been_told_its_stage_has_loaded_nothing_heavy() -> None:
    assert not {name.partition(".")[0] for name in loaded_by("workers.worker")} & {*MODELS, "app", "fastapi"}
