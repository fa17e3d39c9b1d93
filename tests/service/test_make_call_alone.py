"""`make-call` as far as it goes without a running service."""

import pytest
from typer.testing import CliRunner

from scripts.make_call import cli
from tests.service.phone import ACCOUNT, TOKEN

OURS, THEIRS = "+15550100000", "+15550100001"
READY = {
    "PUBLIC_URL": "https://phone.example.com",
    "TWILIO_ACCOUNT_SID": ACCOUNT,
    "TWILIO_AUTH_TOKEN": TOKEN,
    "TWILIO_PHONE_NUMBER": OURS,
    "TWILIO_API_URL": "http://127.0.0.1:1",
    "PORT": "1",
}


def test_a_dry_run_shows_the_request_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in READY.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, ["--dry-run", "--time-limit", "60", "--", f"{THEIRS}x123"])
    assert done.exit_code == 0, done.output
    assert f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json" in done.stdout
    shown = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert (shown["To"], shown["From"], shown["TimeLimit"]) == ("…0001", "…0000", "60")
    assert len(shown["SendDigits"]) == len("ww123")


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "named"),
    [
        (["12345"], {}, 2, "country code"),
        (["sip:alice@example.com"], {}, 2, "no phone number"),
        ([f"{THEIRS},,12ab"], {}, 2, "no phone number"),
        ([THEIRS, "--from", "12345"], {}, 2, "the number to call from"),
        ([THEIRS], {"HOST": "x86_64-conda-linux-gnu"}, 2, "MOSHI_BRIDGE_HOST wins over it"),
        ([THEIRS, "--greeting-frames", "99"], {}, 2, "GREETING_FRAMES=25"),
        ([THEIRS], {"TWILIO_PHONE_NUMBER": ""}, 2, "TWILIO_PHONE_NUMBER"),
        ([THEIRS], {"TWILIO_AUTH_TOKEN": ""}, 2, "TWILIO_AUTH_TOKEN"),
        ([THEIRS], {"TWILIO_API_URL": "twilio"}, 2, "TWILIO_API_URL"),
        ([THEIRS], {}, 3, "moshi-bridge serve"),
    ],
    ids=["number", "SIP", "extension", "from", "host", "greeting", "no number", "no token", "API", "no service"],
)
def test_what_is_missing_is_reported_before_anybody_is_called(
    arguments: list[str], settings: dict[str, str], status: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**READY, **settings}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, arguments)
    [line] = done.stderr.splitlines()
    assert (done.exit_code, named in line) == (status, True), line
