"""The doctor's findings."""

import asyncio
import socket
from functools import partial

import pytest
from rich.console import Console

from app.cli.doctor.checks import examine, memory_finding, report
from app.cli.doctor.finding import Finding, Severity
from app.cli.doctor.survey import survey_checkpoint
from app.cli.service_process import free_port
from app.config import CodecKind, EngineKind, read_settings
from tests.synthetic import synthetic_cache
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.server import serving_rest
from workers.engine.memory import Memory, Plan

TERMINAL = 80
LINE_TEST = {"engine": EngineKind.LOOPBACK, "codec": CodecKind.LOOPBACK, "database_url": "off"}


def _findings(**settings: object) -> dict[str, Finding]:
    chosen = read_settings(**{"port": free_port(), **LINE_TEST, **settings})
    return {finding.subject: finding for finding in examine(chosen)}


def test_a_line_test_on_this_machine_has_no_problem() -> None:
    found = _findings()
    assert [finding for finding in found.values() if finding.severity is Severity.PROBLEM] == []
    assert found["PORT"].severity is Severity.GOOD
    assert found["ENGINE"].severity is Severity.NOTE


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"twilio_account_sid": "AC12"}, "TWILIO_ACCOUNT_SID"),
        ({"twilio_phone_number": "5551234567"}, "TWILIO_PHONE_NUMBER"),
        ({"public_url": "https://bridge.example"}, "PUBLIC_URL"),
        ({"public_url": "http://bridge.example", "twilio_auth_token": "t"}, "PUBLIC_URL"),
    ],
)
def test_what_is_in_the_way_is_a_problem_with_advice_or_reason(settings: dict[str, object], subject: str) -> None:
    finding = _findings(**settings)[subject]
    assert finding.severity is Severity.PROBLEM
    assert finding.advice or "Set " in finding.found


@pytest.mark.slow
def test_the_transcriber_is_examined_like_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = synthetic_cache(tmp_path_factory)
    model = {"engine": EngineKind.MLX, "codec": CodecKind.NUMPY, "moshi_checkpoint": "synthetic:random"}

    def found(transcribe: str) -> dict[str, Finding]:
        return _findings(**model, cache_dir=cache, transcribe=transcribe)

    assert found("synthetic:stt:random")["TRANSCRIBE"].severity is Severity.GOOD
    off = found("off")
    assert "off" in off["TRANSCRIBE"].found
    wrong = found("synthetic:script")["MOSHI_CHECKPOINT"]
    assert wrong.severity is Severity.PROBLEM
    assert wrong.found.startswith("TRANSCRIBE: ")
    assert "holds no speech-to-text; take hf://kyutai/stt-1b-en_fr-mlx" in wrong.found


async def test_everything_set_is_good() -> None:
    base_url, sid, number, token = "https://bridge.example", "AC" + "0" * 32, "+15551234567", "1" * 32
    owned = OwnedNumber(number, f"{base_url}/twilio/voice")
    async with serving_rest(Account(sid, token, numbers=[owned])) as twilio:
        found = await asyncio.to_thread(
            _findings,
            twilio_account_sid=sid,
            twilio_auth_token=token,
            twilio_phone_number=number,
            twilio_api_url=twilio.url,
            public_url=base_url,
        )
    settings = "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_PHONE_NUMBER", "PUBLIC_URL"
    for subject in (*settings, "account", "calls at once", "clock", "number"):
        assert found[subject].severity is Severity.GOOD, found[subject]


def test_a_port_in_use_is_a_problem_and_the_exit_status_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.service_client.FOUND_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = read_settings(port=taken.getsockname()[1], **LINE_TEST)
        assert report(settings) == 1
    assert "choose another PORT" in capsys.readouterr().out
    assert report(settings) == 0


def test_on_a_terminal_findings_are_columns_and_elsewhere_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings(port=free_port(), **LINE_TEST)
    report(settings)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) > TERMINAL
    console = partial(Console, force_terminal=True, width=TERMINAL, color_system=None)
    monkeypatch.setattr("app.cli.doctor.checks.Console", console)
    report(settings)
    columns = capsys.readouterr().out.splitlines()
    assert max(map(len, columns)) <= TERMINAL
    assert len([line for line in columns if not line.startswith(" " * 32)]) == len(lines)


def test_memory_is_compared_with_what_the_checkpoint_needs_and_a_shorter_context_takes_less() -> None:
    settings = read_settings(moshi_checkpoint="synthetic:random", codec=CodecKind.NUMPY)
    full, short = survey_checkpoint(settings), survey_checkpoint(settings.replaced(context=500))
    assert memory_finding(full).severity is Severity.GOOD
    assert 0 < short["on_device"] < full["on_device"]


@pytest.mark.parametrize(
    "wrong",
    [{"moshi_checkpoint": "/no/such/folder"}, {"moshi_checkpoint": "synthetic:random", "moshi_lora": "/no/such"}],
)
def test_a_checkpoint_or_a_lora_that_is_not_there_is_a_problem(wrong: dict[str, str]) -> None:
    missing = _findings(engine=EngineKind.MLX, codec=CodecKind.NUMPY, **wrong)
    assert missing["MOSHI_CHECKPOINT"].severity is Severity.PROBLEM


@pytest.mark.parametrize(("card_gib", "severity"), [(24, Severity.GOOD), (6, Severity.PROBLEM)])
def test_a_small_card_in_a_large_computer_is_a_problem(card_gib: int, severity: Severity) -> None:
    """The published Moshi in 4 bits."""
    plan = Plan(5 << 30, 512 << 10, "numpy", calls=1, context=3000, quantised=True)
    memory = Memory(card_gib << 30, 64 << 30, shared=False)
    needs = {"on_device": plan.on_device, "in_ram": plan.in_ram(memory), "shortage": plan.shortage(memory)}
    finding = memory_finding({"device_bytes": memory.device, "ram_bytes": memory.ram, "calls": plan.calls, **needs})
    assert finding.severity is severity
    assert ("set CONTEXT=2025" in finding.found) is (severity is Severity.PROBLEM)
