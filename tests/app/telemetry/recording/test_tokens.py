import stat
from pathlib import Path

import numpy as np
import pytest

from app.telemetry.recording.tokens import RECORD_BYTES, TokenHeader, TokenLog, TokenLogError, read_tokens
from app.twilio.events import CallSid

HEADER = TokenHeader(CallSid("CA1"), "synthetic:parrot", "2026-01-02T12:00:00+00:00", 25)


def record(value: int) -> bytes:
    return np.full(17, value, "<i2").tobytes()


def log_of(path: Path, steps: list[tuple[int, bytes]]) -> TokenLog:
    path.unlink(missing_ok=True)
    log = TokenLog(path, HEADER)
    for seq, tokens in steps:
        log.add(seq, tokens)
    log.write()
    return log


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    steps = np.arange(170, dtype="<i2").reshape(10, 17)
    log_of(tmp_path / "a.tokens", [(seq, step.tobytes()) for seq, step in enumerate(steps)]).close()
    header, found = read_tokens(tmp_path / "a.tokens")
    assert (header, found.tolist()) == (HEADER, steps.tolist())
    assert RECORD_BYTES * 12.5 == 425, "a second, as documented"


def test_a_frame_that_met_no_step_keeps_its_place(tmp_path: Path) -> None:
    log_of(tmp_path / "a.tokens", [(0, record(7)), (3, record(9)), (2, record(8)), (4, record(5))]).close()
    _, found = read_tokens(tmp_path / "a.tokens")
    assert found[:, 0].tolist() == [7, -1, -1, 9, 5]


def test_the_steps_of_a_greeting_that_nobody_has_heard_are_forgotten(tmp_path: Path) -> None:
    log = TokenLog(tmp_path / "a.tokens", HEADER)
    log.add(0, record(7))
    log.restart()
    log.add(0, record(8))
    log.write()
    log.close()
    assert read_tokens(tmp_path / "a.tokens")[1][:, 0].tolist() == [8]


def test_a_record_that_a_crash_has_cut_short_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    log_of(path, [(0, record(1)), (1, record(2))]).close()
    whole = path.read_bytes()
    for cut in range(1, RECORD_BYTES + 1):
        path.write_bytes(whole[:-cut])
        assert read_tokens(path)[1][:, 0].tolist() == [1]


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"{}\n", b"[1]\n", b'{"kind": 3}\n', b"\xff\n"])
def test_what_is_no_token_log_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tokens").write_bytes(content)
    with pytest.raises(TokenLogError, match="no token log"):
        read_tokens(tmp_path / "a.tokens")


def test_nobody_else_may_read_it_and_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    log_of(path, [(0, record(1))]).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = TokenLog(path, HEADER)
    second.add(0, record(2))
    with pytest.raises(FileExistsError):
        second.write()
