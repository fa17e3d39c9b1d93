"""What real traffic does that no specification says, replayed against one running service.

The facts are from public bug reports. A refused request leaves one warning that says what to change, and a count in the
metrics.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.calls.end_reason import EndReason
from app.cli.main import cli
from app.config import read_settings
from app.http.rate_limit import RefusalReason
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.report import Outcome
from app.twilio.events import CallSid, Stopped
from app.twilio.signature import sign, socket_url
from app.twilio.twiml import Connect, Hangup, Verb, parse
from tests.app.twilio.test_signature import PUBLIC_URLS
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, CONNECTED, PUBLIC, TOKEN, Call, closing_code, form, media, new_call_sid, start
from tests.service.served import Served, served

VOICE, STATUS, MEDIA = "/twilio/voice", "/twilio/status", "/twilio/media/"
SOCKET_BASE = socket_url(PUBLIC)
SUBACCOUNT = "AC" + "1" * 32
SLOTS = 8
ANN = "+15550100001"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
LOOK_AGAIN_S = 0.05

pytestmark = pytest.mark.asyncio(loop_scope="module")


class LogRecords(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def warnings(self, since: int) -> list[str]:
        return [one.getMessage() for one in self.records[since:] if one.levelno >= logging.WARNING]


@dataclass
class Running(Served):
    seen: LogRecords
    folder: Path

    async def refusals(self, reason: RefusalReason) -> float:
        """Return how many requests were refused for this reason, from the metrics."""
        answer = (await self.http.get("/metrics")).raise_for_status()
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name == "moshi_bridge_refusals_total" and sample.labels["reason"] == reason.name.lower():
                    return float(sample.value)
        raise AssertionError(f"no count for {reason.name}")

    @contextlib.asynccontextmanager
    async def refusing(self, reason: RefusalReason) -> AsyncIterator[None]:
        """Expect that the block's one request is refused for this reason: one warning, counted once."""
        since, before = len(self.seen.records), await self.refusals(reason)
        yield
        (warning,) = self.seen.warnings(since)
        assert warning.endswith(f"refused: {reason}")
        assert await self.refusals(reason) == before + 1

    async def send(
        self, method: str, path: str, fields: Mapping[str, str] | None = None, url: str | None = None, **headers: str
    ) -> httpx.Response:
        """Send a form, signed for `url` or, if None, for the path at PUBLIC_URL."""
        fields = form(new_call_sid()) if fields is None else fields
        headers["X-Twilio-Signature"] = sign(TOKEN, url or PUBLIC + path, fields.items())
        content = {"data": dict(fields)} if method == "POST" else {}
        return await self.http.request(method, path, headers=headers, **content)  # type: ignore[arg-type]

    async def ring(self, call_sid: CallSid, webhook_token: str = "", **fields: str) -> Verb:
        """Return the answer to a voice webhook."""
        token = {"I-Twilio-Idempotency-Token": webhook_token} if webhook_token else {}
        url = f"{self.service.public.base_url}{VOICE}"
        answer = await self.send("POST", VOICE, {**form(call_sid), **fields}, url, **token)
        (verb,) = parse(answer.raise_for_status().text)
        return verb

    @contextlib.asynccontextmanager
    async def stream(self, call_sid: CallSid, verb: Verb, prefix: str = "", slash: str = "") -> AsyncIterator[Call]:
        """Open the socket of an answer, at another path than the TwiML's if one is given, and hear the service."""
        assert isinstance(verb, Connect)
        local = f"ws://127.0.0.1:{self.phone.port}{prefix}{verb.url[verb.url.index('/twilio/') :]}{slash}"
        headers = {"X-Twilio-Signature": sign(TOKEN, verb.url)}
        async with connect(local, additional_headers=headers, compression=None, proxy=None) as opened:
            call = Call(call_sid, opened)
            await call.begin()
            await call.speaks()
            yield call

    async def logged(self, call_sid: CallSid, streams: int = 1) -> dict[str, Any]:
        """Return a call as the call log has it, once so many of its streams have ended."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.http.get(f"/api/history/{call_sid}")
                kept: dict[str, Any] = answer.json() if answer.status_code == 200 else {"streams": []}
                if sum(bool(stream["ended_at"]) for stream in kept["streams"]) >= streams:
                    return kept
                await asyncio.sleep(LOOK_AGAIN_S)  # a thread writes

    async def command(self, *arguments: str) -> str:
        """Run a command with the settings of this service; return what it prints."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**logs_in(self.folder), "columns": "160"}.items():
                patch.setenv(name.upper(), value)
            done = await asyncio.to_thread(CliRunner().invoke, cli, list(arguments))
        assert done.exit_code == 0, done.output
        return done.stdout

    async def write(self, first_line: str, *headers: str, body: str = "", host: str | None = None) -> tuple[int, str]:
        """Send one request byte by byte; return the status and the headers of the answer."""
        lines = [f"{first_line} HTTP/1.1", f"Host: 127.0.0.1:{self.phone.port}" if host is None else host, *headers]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.phone.port)
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))
        async with asyncio.timeout(PATIENCE_S):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        writer.close()
        return int(answer.split()[1]), answer.lower()

    async def write_form(self, first_line: str, signed_url: str, *headers: str) -> tuple[int, str]:
        """Post a form that is signed for another address than it is written to, if need be."""
        fields = form(new_call_sid())
        body, signature = urlencode(fields), sign(TOKEN, signed_url, fields.items())
        own = (f"X-Twilio-Signature: {signature}", f"Content-Length: {len(body)}")
        return await self.write(first_line, *own, *headers, body=body)


def logs_in(folder: Path) -> dict[str, str]:
    return {"database_url": f"sqlite:///{folder}/calls.db", "recordings_dir": f"{folder}/recordings"}


@contextlib.asynccontextmanager
async def running(folder: Path, **settings: object) -> AsyncIterator[Running]:
    """Start a service with a call log and recordings."""
    wanted: dict[str, Any] = {"max_calls": SLOTS, "refusals_per_minute": 100_000, **logs_in(folder), **settings}
    log, logger = LogRecords(), logging.getLogger("app")
    async with served(**wanted) as running:
        logger.addHandler(log)
        yield Running(running.service, running.settings, running.phone, running.log, log, folder)
        logger.removeHandler(log)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.server.listener.PING_EVERY_S", 0.1)
        patch.setattr("app.telemetry.call_log.writer.RETRY_S", 0.1)
        patch.setattr("app.telemetry.call_log.writer.READ_FORGOTTEN_EVERY_S", 0.1)
        async with running(tmp_path_factory.mktemp("bridge")) as service:
            yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(started: Running) -> Running:
    """The service at its own address, with the calls of the test before ended."""
    started.service.public.move(PUBLIC)
    await started.settle()
    return started


# Requests that go to the wrong place


@pytest.mark.parametrize(
    ("method", "path", "reason", "status"),
    [
        ("GET", VOICE, RefusalReason.WRONG_METHOD, 405),
        ("RING", VOICE, RefusalReason.WRONG_METHOD, 405),
        ("GET", STATUS, RefusalReason.WRONG_METHOD, 405),
        ("POST", "/", RefusalReason.WRONG_PATH, 404),
        ("GET", "/", RefusalReason.WRONG_PATH, 404),
        ("POST", "/voice", RefusalReason.WRONG_PATH, 404),
        ("POST", "/twilio/Voice", RefusalReason.WRONG_PATH, 404),
        ("POST", "/bridge/twilio/voice", RefusalReason.PREFIX, 404),
        ("GET", "/bridge/twilio/media/token", RefusalReason.PREFIX, 404),
        ("GET", "/twilio/media/token", RefusalReason.NO_UPGRADE, 426),
        ("GET", "/twilio/selftest", RefusalReason.NO_UPGRADE, 426),
    ],
)
async def test_a_request_that_goes_to_the_wrong_place_is_told_what_to_change(
    service: Running, method: str, path: str, reason: RefusalReason, status: int
) -> None:
    async with service.refusing(reason):
        answer = await service.send(method, path)
    assert answer.status_code == status
    assert answer.text.endswith(reason)


async def test_an_upgrade_that_goes_to_the_wrong_place_is_told_what_to_change(service: Running) -> None:
    for path, reason in ((VOICE, RefusalReason.WRONG_PATH), (f"/bridge{MEDIA}token", RefusalReason.PREFIX)):
        async with service.refusing(reason):
            assert (await service.write(f"GET {path}", UPGRADE))[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{VOICE}", f"/x/..{VOICE}", f"{VOICE}/.", "twilio/voice", "*", f"{VOICE}%2e", f"{VOICE};x", f"{VOICE}%00"),
        *(f"{PUBLIC}{VOICE}", f"http://127.0.0.1{VOICE}", f"{VOICE}#x"),
    ],
)
async def test_a_signature_is_good_for_one_way_to_write_the_path(service: Running, path: str) -> None:
    status, headers = await service.write_form(f"POST {path}", PUBLIC + VOICE)
    assert (status, "location" in headers) == (404, False)


@pytest.mark.parametrize(
    "header", ["X-Twilio-Signature: another", "X-Forwarded-Host: evil.example", "X-HTTP-Method-Override: GET"]
)
async def test_headers_beside_the_signature_change_nothing(service: Running, header: str) -> None:
    assert (await service.write_form(f"POST {VOICE}", PUBLIC + VOICE, header))[0] == 200
    assert (await service.write_form(f"POST {VOICE}", f"{PUBLIC}/else", header))[0] == 403


async def test_what_is_none_of_twilios_leaves_no_line(service: Running) -> None:
    since = len(service.seen.records)
    for path in ("/favicon.ico", "/wp-login.php"):
        assert (await service.http.get(path)).status_code == 404
    assert (await service.http.post("/healthz")).status_code == 405
    assert service.seen.warnings(since) == []


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_slash_behind_the_path_works(service: Running, slash: str) -> None:
    call_sid = new_call_sid()
    (verb,) = parse((await service.send("POST", f"{VOICE}{slash}", form(call_sid))).raise_for_status().text)
    async with service.stream(call_sid, verb, slash=slash):
        pass


# Requests that are signed for something else


@pytest.mark.parametrize(
    "url", ["http://phone.example.com", "https://www.phone.example.com", "https://phone.example.com/bridge"]
)
async def test_a_public_url_that_is_not_the_one_of_the_console_is_named(service: Running, url: str) -> None:
    async with service.refusing(RefusalReason.WRONG_SIGNATURE):
        answer = await service.send("POST", VOICE, url=url + VOICE)
    assert answer.status_code == 403
    assert "PUBLIC_URL" in answer.text


@pytest.mark.parametrize(("public_url", "bases"), PUBLIC_URLS)
async def test_a_call_that_is_signed_in_any_spelling_of_public_url_comes_through(
    service: Running, public_url: str, bases: tuple[str, ...]
) -> None:
    """The webhook, its TwiML and the socket."""
    service.service.public.move(read_settings(public_url=public_url).server.base_url)
    for base in bases:
        call_sid = new_call_sid()
        answer = await service.send("POST", VOICE, form(call_sid), base + VOICE)
        (verb,) = parse(answer.raise_for_status().text)
        assert isinstance(verb, Connect)
        spelt = socket_url(base) + verb.url[verb.url.index("/twilio/") :]
        async with service.stream(call_sid, Connect(spelt)):
            pass


@pytest.mark.parametrize("public_url", [url for url, (base, *_) in PUBLIC_URLS if base.count("/") == 2])
async def test_our_own_simulated_calls_come_through(service: Running, public_url: str) -> None:
    base_url = read_settings(public_url=public_url).server.base_url
    service.service.public.move(base_url)
    here = f"http://127.0.0.1:{service.phone.port}"
    report = await simulate(CallOptions(base_url, TOKEN, ACCOUNT, duration_s=0.2, dial_url=here))
    assert report.outcome is Outcome.CALLER_HUNG_UP, report.sentence


@pytest.mark.parametrize(
    ("console", "host", "status"),
    [
        ("https://Phone.Example.com", "Phone.Example.com", 200),
        ("https://PHONE.example.com", "PHONE.EXAMPLE.com", 403),
    ],
)
async def test_a_console_may_have_capitals_where_public_url_has_none_if_the_host_header_has_them_too(
    service: Running, console: str, host: str, status: int
) -> None:
    answer = await service.send("POST", VOICE, url=console + VOICE, Host=host)
    assert answer.status_code == status


async def test_a_call_of_a_subaccount_is_told_which_setting_names_the_account(service: Running) -> None:
    async with service.refusing(RefusalReason.OTHER_ACCOUNT):
        answer = await service.send("POST", VOICE, {**form(new_call_sid()), "AccountSid": SUBACCOUNT})
    assert answer.status_code == 403
    assert "TWILIO_ACCOUNT_SID" in answer.text


# Forms


def many_headers(count: int, length: int) -> dict[str, str]:
    """Return the fields of a call over SIP with so many headers, each value of this length."""
    return {f"SipHeader_X-Header-{number}": "v" * length for number in range(count)}


async def test_a_form_with_hundreds_of_sip_headers_is_a_call(service: Running) -> None:
    assert isinstance(await service.ring(new_call_sid(), **many_headers(600, 30)), Connect)


@pytest.mark.parametrize(
    ("changes", "reason", "status"),
    [
        (many_headers(1_200, 1), RefusalReason.MALFORMED, 400),
        (many_headers(100, 1_000), RefusalReason.TOO_LARGE, 413),
        ({"CallSid": ""}, RefusalReason.MALFORMED, 400),
        ({"CallSid": "CA\n1"}, RefusalReason.MALFORMED, 400),
    ],
    ids=["too many", "too large", "no call", "a line break"],
)
async def test_a_form_that_cannot_be_read_leaves_a_line(
    service: Running, changes: dict[str, str], reason: RefusalReason, status: int
) -> None:
    async with service.refusing(reason):
        answer = await service.send("POST", VOICE, {**form(new_call_sid()), **changes})
    assert (answer.status_code, service.free_slots) == (status, SLOTS)


async def test_a_socket_whose_token_is_unknown_leaves_a_line(service: Running) -> None:
    since, before = len(service.seen.records), await service.refusals(RefusalReason.NO_TOKEN)
    with pytest.raises(InvalidStatus) as refused:
        await service.phone.dial(f"{SOCKET_BASE}{MEDIA}unknown")
    assert refused.value.response.status_code == 403
    assert service.seen.warnings(since) == ["socket refused: its token is unknown, used or expired"]
    assert await service.refusals(RefusalReason.NO_TOKEN) == before + 1


# One CallSid again and again, late callbacks


async def test_a_call_of_three_streams_and_many_repeats_is_one_call(service: Running) -> None:
    sid, again, tokens = new_call_sid(), {"CallStatus": "in-progress"}, ("t1", "t2", "t3", "t4")
    verb = await service.ring(sid, tokens[0], CallStatus="ringing")
    assert await service.ring(sid, tokens[0], CallStatus="ringing") == verb, "before the socket opens"
    assert service.free_slots == SLOTS - 1
    async with service.stream(sid, verb) as first:
        await first.speaks(3)
        assert await service.ring(sid, tokens[0], CallStatus="ringing") == verb, "while the stream is on"
        assert service.free_slots == SLOTS - 1
        back = await service.ring(sid, tokens[1], **again)
        await first.speaks()
        async with service.stream(sid, back) as second:
            assert await closing_code(first.socket) == 1000
            await second.speaks(3)
            assert service.free_slots == SLOTS - 1
            await second.socket.send(second.carrier.send(Stopped()))
            assert await closing_code(second.socket) == 1000
    async with service.stream(sid, await service.ring(sid, tokens[2], **again)) as third:
        await third.speaks(3)
    kept = await service.logged(sid, 3)
    await service.send("POST", STATUS, {**form(sid), "CallStatus": "completed", "SequenceNumber": "3"})
    for repeat in ((tokens[0], "ringing"), (tokens[3], "in-progress")):
        assert await service.ring(sid, repeat[0], CallStatus=repeat[1]) == Hangup(), "after the end"

    assert service.free_slots == SLOTS
    ends = [EndReason.REPLACED, EndReason.CALLER_HUNG_UP, EndReason.SOCKET_LOST]
    assert (
        [stream.end for stream in service.record(sid).streams] == ends == [one["end_reason"] for one in kept["streams"]]
    )
    record = (await service.http.get(f"/api/calls/{sid}")).json()
    assert (record["end"], record["status"], len(record["streams"])) == ("the socket was lost", "completed", 3)
    assert record["counts"]["packets_in"] >= 4 * 12
    assert [one["call_sid"] for one in (await service.http.get("/api/calls")).json()].count(sid) == 1
    for stream in service.record(sid).streams:
        async with asyncio.timeout(PATIENCE_S):
            while not await heard(service, sid, stream.recording.name):  # noqa: ASYNC110 - a thread writes
                await asyncio.sleep(LOOK_AGAIN_S)
    shown = await service.command("calls", "show", sid)
    assert all(f"stream {number}" in shown for number in (1, 2, 3))
    await service.command("forget", ANN)
    assert list((service.folder / "recordings").glob(f"*{sid}*")) == []
    async with asyncio.timeout(PATIENCE_S):
        while (await service.http.get(f"/api/calls/{sid}")).status_code != 404:  # noqa: ASYNC110 - a thread looks
            await asyncio.sleep(LOOK_AGAIN_S)
    assert sid not in (await service.http.get("/api/calls")).text


async def heard(service: Running, call_sid: CallSid, name: str) -> bool:
    """Tell whether a recording is finished and has sound."""
    answer = await service.http.get(f"/api/calls/{call_sid}/waveform", params={"name": name})
    return answer.status_code == 200 and not answer.json()["live"] and answer.json()["seconds"] > 0


async def test_a_path_in_public_url_may_be_taken_away_by_the_proxy_or_not(tmp_path: Path) -> None:
    public, call_sid = f"{PUBLIC}/bridge", new_call_sid()
    async with running(tmp_path, public_url=public) as service:
        for prefix, state in (("", "ringing"), ("/bridge", "in-progress")):
            answer = await service.send("POST", prefix + VOICE, {**form(call_sid), "CallStatus": state}, public + VOICE)
            (verb,) = parse(answer.raise_for_status().text)
            async with service.stream(call_sid, verb, prefix) as call:
                await call.socket.send(call.carrier.send(Stopped()))
                assert await closing_code(call.socket) == 1000
        async with service.refusing(RefusalReason.PREFIX):
            assert (await service.send("POST", f"/other{VOICE}")).status_code == 404


# Connections


async def test_hundreds_of_connections_that_are_reset_at_once_end_no_call(service: Running) -> None:
    """On macOS a socket option cannot be set on a connection that is reset already."""
    async with service.phone.call() as call:
        await call.speaks(2)
        for _ in range(400):
            with socket.create_connection(("127.0.0.1", service.phone.port)) as reset:
                reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await call.speaks(3)
        assert (await service.http.get("/healthz")).status_code == 200


async def test_a_form_whose_body_does_not_follow_delays_nobody_else(service: Running) -> None:
    body = urlencode(form(new_call_sid()))
    head = f"POST {VOICE} HTTP/1.1\r\nHost: here\r\nX-Twilio-Signature: x\r\nContent-Length: {len(body)}\r\n\r\n"
    slow = [await asyncio.open_connection("127.0.0.1", service.phone.port) for _ in range(50)]
    for _, writer in slow:
        writer.write(head.encode())
    async with service.phone.call() as call:
        await call.speaks(2)
    for _, writer in slow:
        writer.close()


async def test_a_peer_that_answers_no_pings_but_sends_audio_stays(service: Running) -> None:
    sid, sequence, pings = new_call_sid(), 1, 0
    verb = await service.ring(sid)
    assert isinstance(verb, Connect)
    url, headers = verb.url.replace(SOCKET_BASE, service.url), {"X-Twilio-Signature": sign(TOKEN, verb.url)}
    async with (
        asyncio.timeout(PATIENCE_S),
        aiohttp.ClientSession() as http,
        http.ws_connect(url, headers=headers, autoping=False) as peer,
    ):
        await peer.send_str(CONNECTED)
        await peer.send_str(start(sid))
        while pings < 10:
            sequence += 1
            await peer.send_str(media(sequence))
            while (message := await peer.receive()).type is aiohttp.WSMsgType.PING:
                pings += 1
            assert message.type is aiohttp.WSMsgType.TEXT
        assert service.record(sid).end is None
