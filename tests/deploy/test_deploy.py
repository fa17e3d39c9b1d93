"""The files in deploy/: whole by the tools that read them where these are installed, and true to the service."""

import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from app.config import NAMES, Settings

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile.cpu", DEPLOY / "Dockerfile.cuda13"]
LONGEST_CALL_S = 3_600
ENDING_S = 60
"""For the last sentences, the tunnel and the number, once the time to drain is over."""
STATE = "/var/lib/moshi-bridge"
WATCHING = {"alerts.yml", "prometheus.yml"}
NOT_OURS = {"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "HF_HOME"} | {
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
}
"""What others than our settings read."""
PLACES = """
from pathlib import Path
from app.telemetry.call_log.address import find_address
from app.config import NAMES, read_settings

settings = read_settings()
address = find_address(settings)
print(address.file, address.spool_folder, settings.model.cache, sep="\\n")
for value in map(str, (settings.value(name) for name in NAMES)):
    if "~/" in value:
        print(Path(value[value.index("~") :]).expanduser())
"""
"""Prints where the service keeps things: what is known by name, and whatever a setting puts under `~`."""


def unit() -> list[tuple[str, str]]:
    """Return the lines of the systemd unit as pairs; a name may occur more than once."""
    lines = (DEPLOY / "moshi-bridge.service").read_text().splitlines()
    return [(name, value) for line in lines if "=" in line and line[0] != "#" for name, value in [line.split("=", 1)]]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile as instruction and argument, lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest) for line in text.splitlines() if line for name, _, rest in [line.partition(" ")]]


def argument(dockerfile: Path, name: str) -> str:
    """Return the last argument of an instruction."""
    return [rest for instruction, rest in instructions(dockerfile) if instruction == name][-1]


def image_environment(dockerfile: Path) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in argument(dockerfile, "ENV").split())


def kept_at(environment: dict[str, str]) -> set[str]:
    """Return STATE for each place where the service keeps something that lies in it, else the place itself.

    Whoever adds a setting whose default lies under `~` is told here.
    """
    command = [sys.executable, "-c", PLACES]
    everything = {"HOME": "/no/home", **environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd="/", env=everything, capture_output=True, text=True, check=True)
    places = [environment.get("HF_HOME", f"{everything['HOME']}/.cache/huggingface"), *done.stdout.split()]
    return {STATE if place.startswith(f"{STATE}/") else place for place in places}


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return parsed


def plist() -> dict[str, Any]:
    parsed: dict[str, Any] = plistlib.loads((DEPLOY / "com.moshi-bridge.plist").read_bytes())
    return parsed


def test_the_longest_call_is_the_settings_own() -> None:
    assert Settings().calls.max_seconds == LONGEST_CALL_S


COMMENTED = sorted(path for path in DEPLOY.iterdir() if path.is_file() and path.suffix != ".json")
"""JSON has no comments."""


@pytest.mark.parametrize("path", COMMENTED, ids=lambda path: path.name)
def test_every_file_says_at_its_top_what_to_type(path: Path) -> None:
    lines = path.read_text().splitlines()
    top = lines[3:8] if path.suffix == ".plist" else lines[:7]
    commands = [
        line
        for line in top
        if re.match(r"(#  )? ?\s+(docker|sudo|cp|launchctl|systemctl|cloudflared|tail|TUNNEL_|promtool)", line)
    ]
    assert len(commands) >= (1 if path.name in WATCHING else 3), top


# launchd


def test_launchd_slows_nothing_down_and_starts_again_what_fails() -> None:
    job = plist()
    assert job["ProcessType"] == "Interactive"
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["RunAtLoad"] is True


def test_whoever_stops_the_service_waits_until_calls_that_are_on_have_ended() -> None:
    """0, the default, ends them at once; longer than the patience, and they and the call log are cut off."""
    limits = {
        "systemd": (unit_environment(), seconds(dict(unit())["TimeoutStopSec"])),
        "launchd": (plist()["EnvironmentVariables"], plist()["ExitTimeOut"]),
    }
    for name in ("bridge-cpu", "bridge-cuda13"):
        service = compose()["services"][name]
        limits[name] = (service["environment"], seconds(service["stop_grace_period"]))
    for dockerfile in DOCKERFILES:
        top = dockerfile.read_text()
        [said], [patience_s] = re.findall(r"-e (DRAIN_SECONDS)=3600 ", top), re.findall(r"--stop-timeout (\d+) ", top)
        limits[dockerfile.name] = ({said: "3600"}, int(patience_s))
    for environment, patience_s in limits.values():
        assert LONGEST_CALL_S <= int(environment["DRAIN_SECONDS"]) < patience_s - ENDING_S


def test_launchd_runs_serve_where_homebrew_puts_cloudflared() -> None:
    job = plist()
    assert job["ProgramArguments"] == [f"{job['WorkingDirectory']}/.venv/bin/moshi-bridge", "serve"]
    assert "/opt/homebrew/bin" in job["EnvironmentVariables"]["PATH"].split(":")


@pytest.mark.skipif(not shutil.which("plutil"), reason="plutil is not installed")
def test_plutil_finds_no_fault() -> None:
    subprocess.run(["plutil", "-lint", DEPLOY / "com.moshi-bridge.plist"], check=True, capture_output=True)


# systemd


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    """The program is another one: systemd looks whether it is there."""
    text = (DEPLOY / "moshi-bridge.service").read_text()
    copy = tmp_path / "moshi-bridge.service"
    copy.write_text(text.replace(dict(unit())["ExecStart"].split()[0], sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_is_notified_watches_and_starts_the_service_again_for_ever() -> None:
    said = dict(unit())
    assert (said["Type"], said["NotifyAccess"], said["KillMode"]) == ("notify", "main", "mixed")
    assert said["WatchdogSec"] == "3min"
    assert (said["Restart"], said["StartLimitIntervalSec"]) == ("on-failure", "0")
    assert "RestartPreventExitStatus" not in said


def test_systemd_leaves_mlx_what_it_needs() -> None:
    assert not {"MemoryDenyWriteExecute", "PrivateDevices", "NoExecPaths"} & {name for name, _ in unit()}


def test_systemd_lets_the_service_write_into_one_folder_and_it_writes_there() -> None:
    said = dict(unit())
    assert said["ProtectSystem"] == "strict"
    assert said["StateDirectory"] == Path(STATE).name
    assert said["StateDirectoryMode"] == "0700"
    assert kept_at(unit_environment()) == {STATE}


def test_systemd_leaves_every_setting_to_the_env_file_but_the_one_that_goes_with_its_patience() -> None:
    """What a unit says goes before .env, and the commands of an operator do not know it."""
    named = unit_environment().keys() & NAMES.keys()
    assert named == {"DRAIN_SECONDS"}


def test_systemd_and_the_operator_who_types_a_command_have_one_home() -> None:
    [useradd] = [line for line in (DEPLOY / "moshi-bridge.service").read_text().splitlines() if "useradd" in line]
    assert f"--home-dir {unit_environment()['HOME']} {dict(unit())['User']}" in useradd


def unit_environment() -> dict[str, str]:
    return dict(value.split("=", 1) for name, value in unit() if name == "Environment")


def seconds(text: str) -> int:
    """Return a span as systemd and compose write it, in minutes."""
    match = re.fullmatch(r"(\d+)m(in)?", text)
    assert match, text
    return 60 * int(match[1])


# containers


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
def test_hadolint_finds_no_fault(dockerfile: Path) -> None:
    done = subprocess.run(["hadolint", dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_takes_locked_packages_with_their_hashes_and_no_secret(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    [installing] = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]
    assert "--require-hashes" in installing
    assert "--no-deps" in installing
    copied = [rest.split()[0] for name, rest in steps if name == "COPY" and "--from" not in rest]
    assert f"requirements/{dockerfile.suffix[1:]}.txt" in copied
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {f"!{source.split('/')[0]}" for source in copied} <= set(ignored)
    assert not any(name in line for line in ignored for name in (".env", ".git", ".venv"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_an_ordinary_user_and_keeps_everything_in_its_volume(dockerfile: Path) -> None:
    user = argument(dockerfile, "USER")
    assert int(user) > 0
    assert f"--uid {user}" in " ".join(rest for name, rest in instructions(dockerfile) if name == "RUN")
    assert json.loads(argument(dockerfile, "ENTRYPOINT")) == ["python", "-m", "app"]
    assert image_environment(dockerfile).keys() - NOT_OURS <= NAMES.keys()
    assert argument(dockerfile, "VOLUME") == STATE
    assert kept_at(image_environment(dockerfile)) == {STATE}


def test_what_an_image_copies_is_enough_to_serve(tmp_path: Path) -> None:
    for folder in ("app", "workers", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import app.cli.main, app.server.serve, app.cli.doctor.checks, workers.worker; print(app.server.serve.__file__)"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "app" / "server" / "serve.py")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_images_health_check_tells_a_service_that_answers_from_one_that_does_not(
    dockerfile: Path, tmp_path: Path
) -> None:
    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    command = json.loads(argument(dockerfile, "HEALTHCHECK").partition("CMD ")[2])
    with HTTPServer(("127.0.0.1", 0), Alive) as server:
        Thread(target=server.handle_request, daemon=True).start()
        environment = {"PORT": str(server.server_port)}
        alive = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, check=False)
    dead = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, check=False)
    assert (alive.returncode, dead.returncode) == (0, 1)


def test_compose_runs_the_images_on_this_machine_alone_and_gives_calls_time_to_end() -> None:
    services = compose()["services"]
    for name in ("bridge-cpu", "bridge-cuda13"):
        service = services[name]
        build, environment = service["build"], service["environment"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() in DOCKERFILES
        assert service["volumes"] == [f"state:{STATE}"]
        assert (service["ports"], environment["HOST"]) == ([f"127.0.0.1:5001:{environment['PORT']}"], "0.0.0.0")
        assert seconds(service["stop_grace_period"]) > LONGEST_CALL_S
        assert service["depends_on"] == {"tunnel": {"condition": "service_started", "required": False}}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def has_compose() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="docker compose is not installed")
def test_docker_compose_finds_no_fault(tmp_path: Path) -> None:
    """A copy, beside settings of its own: the file names ../.env."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / ".env").touch()
    copy = shutil.copy(DEPLOY / "compose.yaml", tmp_path / "deploy")
    profiles = ["--profile", "cpu", "--profile", "cuda13", "--profile", "tunnel"]
    subprocess.run(["docker", "compose", "-f", copy, *profiles, "config", "-q"], check=True, capture_output=True)


# cloudflared


def test_the_named_tunnel_lets_through_what_twilio_asks_for_the_sign_of_life_and_nothing_else() -> None:
    ours, rest = yaml.safe_load((DEPLOY / "cloudflared.yml").read_text())["ingress"]
    for path in (
        "/twilio/voice",
        "/twilio/status",
        "/twilio/after-stream",
        "/twilio/media/a-token",
        "/twilio/selftest",
        "/healthz",
    ):
        assert re.search(ours["path"], path), path
    for path in ("/", "/api/calls", "/readyz", "/metrics", "/api/twilio/", "/healthzz"):
        assert not re.search(ours["path"], path), path
    assert rest == {"service": "http_status:404"}
    assert ours["service"] == f"http://127.0.0.1:{Settings().server.port}"
