"""Who may import whom, read from the source files; docs/architecture.md says why."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIGHT = {
    f"workers.{name}"
    for name in (
        *("messages", "control_messages", "pipeline", "processors", "supervisor", "process", "transcription"),
        *("liveness", "link", "gc_freeze", "logging", "histogram"),
    )
}
"""What the app may import from the workers."""
_PURE = {
    "calls": "admission chat_leg end_reason leg limits masking personas prompts record screening sentences session"
    " statistics transcript transfer words",
    "twilio": "errors events parties protocol status wire",
    "telemetry/webhooks": "actions queue",
    "telemetry/recording": "timeline",
    "server/remote": "client messages pacer query servers",
    "cluster": "directory fallback messages failover placement seal token_log waiting",
}
PURE = [f"app/{folder}/{name}.py" for folder, names in _PURE.items() for name in names.split()]
PURE += ["app/audio"]
"""Rules without I/O and without a clock."""
IMPURE = {
    *("asyncio", "socket", "selectors", "time", "datetime", "multiprocessing", "threading", "subprocess"),
    *("signal", "os", "logging", "fastapi", "starlette", "uvicorn", "websockets"),
}
ELSEWHERE = "scripts/side_by_side"
"""Servers of others that are measured beside ours, in an environment of their own."""
ONLY_IN = {
    "sounddevice": {"app/cli/talk/devices.py"},
    "rustymimi": {"workers/codec/rustymimi_codec.py"},
    "uvicorn": {"app/server/listener.py"},
    "soundfile": {
        "app/server/voice_recording.py",
        "app/telemetry/recording/audio_files.py",
        "app/simulator/wav.py",
        "workers/checkpoints/synthetic/phrases.py",
    },
    "sphn": {"app/audio/opus.py"},
    "nats": {f"app/cluster/{name}.py" for name in ("bus", "log_store", "survey")},
    "prometheus_client": {"app/telemetry/metrics/exposition.py"},
    "opentelemetry": {"app/telemetry/traces.py"},
}
"""Dependencies that only these modules may import."""
MLX = ("engine", "transcriber", "survey.py", "codec/mlx_step.py", "codec/choose.py")
"""Where in `workers` mlx is imported; codec/choose asks for its GPU."""
MODELS = {"mlx", "moshi_mlx", "rustymimi"}
LAYERS = ("audio", "twilio", "calls", "telemetry", "cluster", "simulator", "http", "server", "cli")
"""The packages of the app, each knowing only those before it."""
READ_ENVIRONMENT = {
    *("app/config.py", "app/cli/service_process.py", "app/server/serve.py"),
    *("workers/process.py", "workers/codec/bench.py", "workers/worker.py"),
}
"""A module that starts a process passes the environment on to it, a worker sets a library's; no other looks at it."""


def sources(*names: str) -> list[Path]:
    paths = [ROOT / name for name in names]
    files = [file for path in paths for file in ([path] if path.suffix else path.rglob("*.py"))]
    assert files, names
    return sorted(file for file in files if not file.is_relative_to(ROOT / ELSEWHERE))


@cache
def parsed(source: Path) -> ast.Module:
    return ast.parse(source.read_text())


@cache
def imports(source: Path) -> frozenset[str]:
    """Return every module that a file imports, in functions too: `from a import b` is both a and a.b."""
    return frozenset(_imports(source))


def _imports(source: Path) -> Iterator[str]:
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(files: Iterable[Path], is_forbidden: Callable[[str], bool]) -> list[str]:
    """Return "file imports module" for every forbidden import."""
    found = ((source, name) for source in files for name in imports(source) if is_forbidden(name))
    return [f"{source.relative_to(ROOT)} imports {name}" for source, name in found]


def one_of(packages: set[str]) -> Callable[[str], bool]:
    return lambda name: name.partition(".")[0] in packages


def names_in(module: str) -> set[str]:
    """Return `module` itself and what `from module import …` may name of it."""
    body = parsed(ROOT / f"{module.replace('.', '/')}.py").body
    defined = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {module} | {f"{module}.{name}" for name in defined}


LIGHT_NAMES = {"workers"}.union(*map(names_in, LIGHT))


def is_heavy(name: str) -> bool:
    return name.partition(".")[0] == "workers" and name not in LIGHT_NAMES


def test_the_workers_never_import_the_app_and_the_app_never_imports_a_model() -> None:
    assert offenders(sources("workers"), one_of({"app", "scripts", "tests"})) == []
    assert offenders(sources("app"), one_of(MODELS)) == []


def test_the_service_imports_from_the_workers_only_what_is_light() -> None:
    serving = [f"app/{name}" for name in LAYERS if name != "cli"]
    serving += [f"app/{name}.py" for name in ("__main__", "config", "logging", "setting_sources", "cli/main")]
    assert offenders(sources(*serving), is_heavy) == []


def test_commands_may_also_know_what_the_synthetic_checkpoints_say() -> None:
    allowed = "workers.checkpoints.synthetic"
    assert offenders(sources("app/cli"), lambda name: is_heavy(name) and not name.startswith(allowed)) == []


def test_what_is_light_imports_no_stage_and_no_model() -> None:
    files = sources(*(f"{module.replace('.', '/')}.py" for module in LIGHT))
    assert offenders(files, one_of(MODELS)) == []
    assert offenders(files, is_heavy) == []


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_knows_only_those_below_it(package: str) -> None:
    above = {f"app.{name}" for name in LAYERS[LAYERS.index(package) + 1 :]}
    assert offenders(sources(f"app/{package}"), lambda name: ".".join(name.split(".")[:2]) in above) == []


def test_every_package_of_the_app_has_a_layer() -> None:
    assert {path.parent.name for path in (ROOT / "app").glob("*/__init__.py")} == set(LAYERS)


def test_the_rules_of_a_call_know_no_io_and_no_clock() -> None:
    assert offenders(sources(*PURE), one_of(IMPURE)) == []


@pytest.mark.parametrize("dependency", ONLY_IN)
def test_a_dependency_is_imported_only_where_it_belongs(dependency: str) -> None:
    files = [source for source in sources("app", "workers", "scripts") if offenders([source], one_of({dependency}))]
    assert {str(source.relative_to(ROOT)) for source in files} == ONLY_IN[dependency]


def test_mlx_is_imported_by_the_engine_and_its_step_of_the_codec() -> None:
    files = [source for source in sources("app", "workers", "scripts") if source.name != "device_engine.py"]
    homes = [ROOT / "workers" / name for name in MLX]
    elsewhere = [source for source in files if not any(source.is_relative_to(home) for home in homes)]
    assert offenders(elsewhere, one_of({"mlx", "moshi_mlx"})) == []


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        str(source.relative_to(ROOT))
        for source in sources("app", "workers")
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers <= READ_ENVIRONMENT


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("app.cli.main, app.server.service", {*MODELS, "torch", "sentencepiece", "safetensors"}),
        ("workers.worker", {*MODELS, "app", "fastapi"}),
    ],
)
def test_a_process_starts_with_nothing_heavy(modules: str, heavy: set[str]) -> None:
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded >= set(modules.split(", "))
    assert not {name.partition(".")[0] for name in loaded} & heavy
    assert not {name for name in loaded if name.startswith("opentelemetry.sdk")}, "unless TRACES_ENDPOINT is set"
