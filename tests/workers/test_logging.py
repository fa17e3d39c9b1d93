import io
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.logging import LineFormat, LineFormatter, LineHandler, hiding

NUMBER = "+15550100001"
SECRET = "a-secret-of-ours"
CALL = "CA00000000000000000000000000000001"
ROOT = Path(__file__).parent.parent.parent
hide = hiding([SECRET, "short"])
text = LineFormatter("app", LineFormat.TEXT, hide).format
as_json = LineFormatter("app", LineFormat.JSON, hide).format


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("app.calls.manager", logging.WARNING, "", 0, message, arguments, None)
    made.created = 1_700_000_000.25
    made.__dict__.update(extra)
    return made


@settings(max_examples=50)  # each way of writing a number has a check of its own
@given(st.text(), st.integers(10**6, 10**14), st.text())
def test_of_a_phone_number_only_the_last_four_digits_are_seen(before: str, number: int, after: str) -> None:
    digits = str(number)
    assert f"+{digits}" not in hide(f"{before}+{digits} {after}")
    assert hide(f"from +{digits}, say") == f"from …{digits[-4:]}, say"
    assert hide(f"From=%2B{digits}&To=x") == f"From=…{digits[-4:]}&To=x"


@pytest.mark.parametrize(
    "harmless", ["+12 ms", "2026-11-21T10:00:00+0000", "15550100001 bytes", "short", "1.5e+1000", "call_sid=CA1"]
)
def test_what_is_no_number_and_no_secret_stays(harmless: str) -> None:
    assert hide(harmless) == harmless


def test_of_a_url_the_password_is_hidden() -> None:
    assert hide("open: https://me:a-pass-word@127.0.0.1:1/x leads here") == "open: https://…@127.0.0.1:1/x leads here"


@given(st.text(), st.text())
def test_a_secret_is_never_seen(before: str, after: str) -> None:
    assert SECRET not in hide(before + SECRET + after)


def test_a_line_for_people_names_call_and_worker() -> None:
    line = text(record("call from %s", NUMBER, call_sid=CALL))
    assert line.endswith(f" WARNING app.calls.manager call_sid={CALL} call from …0001")
    worker = LineFormatter("step-0", LineFormat.TEXT, hide)
    assert " WARNING step-0 app.calls.manager warm" in worker.format(record("warm"))


@pytest.mark.parametrize("end", ["\n", "\r", "\x1b[2J", "\u2028", "\x85"])
def test_nobody_can_add_a_line_of_their_own(end: str) -> None:
    forged = record("left the line: %s", f"x{end}2026 INFO forged")
    assert text(forged).splitlines() == [text(forged)]
    assert "\x1b" not in text(forged)
    assert as_json(forged).splitlines() == [as_json(forged)]
    assert json.loads(as_json(forged))["message"] == f"left the line: x{end}2026 INFO forged"


def test_a_line_for_machines_is_an_object() -> None:
    made = record("ended: %s", "é", call_sid=CALL, facts={"end": "idle", "counts": {"packets_in": 3}})
    assert json.loads(as_json(made)) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "process": "app",
        "logger": "app.calls.manager",
        "call_sid": CALL,
        "message": "ended: é",
        "end": "idle",
        "counts": {"packets_in": 3},
    }


def test_a_traceback_is_one_line_for_machines_and_holds_no_secret() -> None:
    made = record("it failed")
    try:
        raise ValueError(f"no such number: {NUMBER}, {SECRET}")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = as_json(made)
    assert line.splitlines() == [line]
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback (most recent call last)")
    assert exception.endswith("ValueError: no such number: …0001, …")
    assert NUMBER not in text(made)
    assert SECRET not in text(made)


def logger_to(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("app.test", logging.DEBUG)
    logger.addHandler(handler)
    return logger


class Paused(io.StringIO):
    """A terminal that somebody has paused."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.begun.set()
        self.goes_on.wait()
        return super().write(text)


def test_a_reader_that_stands_still_delays_nobody_and_sees_how_much_was_lost() -> None:
    stream = Paused()
    writer = LineHandler(stream, most=10)
    logger = logger_to(writer)
    own = logging.getLogger("workers.logging")
    own.addHandler(writer)
    try:
        logger.info("first")
        stream.begun.wait()
        for number in range(15):
            logger.info("%d", number)
        stream.goes_on.set()
        writer.flush()
        writer.flush()  # the line about the others is put in line after them
    finally:
        own.removeHandler(writer)
    lines = stream.getvalue().splitlines()
    assert lines[:11] == ["first", *map(str, range(10))]
    assert lines[11:] == ["5 lines were lost: standard error was not read"]


def test_a_reader_that_is_gone_ends_nobody() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, text)

    writer = LineHandler(Gone())
    for number in range(3):
        logger_to(writer).info("%d", number)
    writer.flush()


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_uncaught_exceptions_and_warnings_are_lines_too_from_the_process_and_from_its_threads() -> None:
    done = run("""
import logging, threading, warnings
from workers.logging import LineFormat, start_process_logging, log_uncaught_exceptions
start_process_logging("step-0", "INFO", LineFormat.JSON)
log_uncaught_exceptions()
logging.getLogger("websockets").info("X-Twilio-Signature: none of ours")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise OSError("the last word")
""")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [line["level"] for line in lines] == ["warning", "critical", "critical"]
    assert "old" in lines[0]["message"]
    assert lines[1]["exception"].endswith("ZeroDivisionError: division by zero")
    assert lines[2]["exception"].endswith("OSError: the last word")
    assert {line["process"] for line in lines} == {"step-0"}


def test_a_reader_that_stands_still_does_not_keep_a_process_from_its_end() -> None:
    program = """
import logging
from workers.logging import LineFormat, start_process_logging
start_process_logging("step-0", "INFO", LineFormat.TEXT)
for _ in range(2000):
    logging.getLogger("app").info("more than a pipe holds " * 4)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 0
