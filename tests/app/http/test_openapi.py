"""The generated description of the API against the routes and what they answer."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.calls.transcript import Side, Word
from app.telemetry.call_log.address import find_address
from app.telemetry.call_log.database import Database
from app.telemetry.recording.audio_files import encode_flac
from app.twilio.events import CallSid
from tests.app.http.test_transfer import ANN as PERSON
from tests.app.http.test_transfer import OPERATOR, Carrier
from tests.app.telemetry.call_log.records import ANN, entry, stream
from tests.app.telemetry.recording.test_recording_routes import NAME, file_of
from tests.service.front import Front, front_settings

Spec = dict[str, Any]
TEXTS = {"get /metrics", "get /api/history/{sid}/transcript.vtt", "get /api/calls/{call_sid}/recording"}
"""What is answered as something else than JSON."""


def faults(value: object, schema: Spec, spec: Spec, where: str = "") -> list[str]:
    """Return where a value is not what a schema says: the part of JSON Schema that our descriptions use."""
    if "$ref" in schema:
        return faults(value, spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]], spec, where)
    if "anyOf" in schema:
        each = [faults(value, one, spec, where) for one in schema["anyOf"]]
        return [] if [] in each else each[0]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    kind = kinds.get(schema.get("type", ""), (int, float))
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return [f"{where}: {value!r} is no {schema.get('type')}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    if isinstance(value, list):
        parts = schema.get("prefixItems") or [schema["items"]] * len(value)
        found = [f"{where}: {len(value)} items"] if len(parts) != len(value) else []
        return found + [
            fault for one, part in zip(value, parts, strict=False) for fault in faults(one, part, spec, where)
        ]
    if isinstance(value, dict):
        return _object_faults(value, schema, spec, where)
    return []


def _object_faults(value: dict[str, object], schema: Spec, spec: Spec, where: str) -> list[str]:
    fields, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    found = [f"{where}: lacks {name}" for name in set(schema.get("required", ())) - value.keys()]
    for name, one in value.items():
        part = fields.get(name) or (more if isinstance(more, dict) else None)
        if part is None and more is False:
            found.append(f"{where}: has {name}")
        elif part:
            found += faults(one, part, spec, f"{where}.{name}")
    return found


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """A front with a call that is on, one in the call log, and a recording."""
    url = f"sqlite:///{tmp_path}/calls.db"
    told = {"database_url": url, "recordings_dir": str(tmp_path), "operator_token": OPERATOR, "transfer_to": PERSON}
    front = Front(front_settings(**told), rest=Carrier())
    address = find_address(front.settings)
    assert address
    Database(address).migrate()
    log_entry = entry()
    log_entry.streams.append(stream(1))
    Database(address).write(log_entry)
    file_of(tmp_path).close()
    encode_flac(tmp_path / NAME)
    yield front
    await front.http.aclose()


async def talk(front: Front) -> CallSid:
    record = (await front.talk()).session.record
    record.words.append(Word(Side.CALLER, "Hi", 1.0, 1.5))
    return record.call_sid


async def description(front: Front) -> Spec:
    answer = await front.http.get("/api/openapi.json")
    return answer.json()  # type: ignore[no-any-return]


async def test_the_description_is_for_operators_alone(front: Front) -> None:
    outside = {"X-Forwarded-For": "203.0.113.9"}
    assert (await front.http.get("/api/openapi.json", headers=outside)).status_code == 403
    bearer = {"Authorization": f"Bearer {OPERATOR}", **outside}
    assert (await front.http.get("/api/openapi.json", headers=bearer)).json()["openapi"].startswith("3.")


def requests_of(on: CallSid) -> list[tuple[str, str, dict[str, str], object]]:
    """A request to each route: method, path as described, what fills it in, what is sent."""
    call: dict[str, str] = {"call_sid": on}
    kept: dict[str, str] = {"sid": ANN}
    recorded: dict[str, str] = {"call_sid": ANN}
    return [
        *(("get", path, {}, None) for path in ("/healthz", "/readyz", "/metrics", "/api/calls", "/api/loop")),
        *(("get", path, {}, None) for path in ("/api/public", "/api/live", "/api/personas", "/api/history")),
        *(("get", path, call, None) for path in ("/api/calls/{call_sid}", "/api/live/{call_sid}")),
        *(("get", path, kept, None) for path in ("/api/history/{sid}", "/api/history/{sid}/transcript.vtt")),
        ("get", "/api/history/search", {"?": "q=hello"}, None),
        *(("get", f"/api/calls/{{call_sid}}/{what}", recorded, None) for what in ("recording", "waveform")),
        ("post", "/api/calls/{call_sid}/say", call, {"text": "Hello"}),
        ("post", "/api/calls/{call_sid}/transfer", call, {"to": PERSON}),
        ("post", "/api/calls/{call_sid}/hangup", call, None),
        ("post", "/api/prompts", {}, {"text": "You are Ada."}),
        ("post", "/api/drain", {}, None),
    ]


async def ask(front: Front, method: str, path: str, filled: dict[str, str], sent: object) -> httpx.Response:
    url = path.format(**filled) + (f"?{filled['?']}" if "?" in filled else "")
    headers = {} if sent is None else {"Content-Type": "application/json"}
    return await front.http.request(method, url, content=None if sent is None else json.dumps(sent), headers=headers)


async def test_every_route_is_described_and_answers_as_it_is_described(front: Front) -> None:
    spec, on = await description(front), await talk(front)
    described = {f"{method} {path}" for path, methods in spec["paths"].items() for method in methods}
    asked = requests_of(on)
    assert {f"{method} {path}" for method, path, *_ in asked} == described
    for method, path, filled, sent in asked:
        operation, answer = spec["paths"][path][method], await ask(front, method, path, filled, sent)
        if path == "/api/prompts":  # this service has no personas to prepare one for
            assert answer.status_code == 503
            continue
        assert answer.is_success, (path, answer.text)
        content = operation["responses"][str(answer.status_code)]["content"]
        assert answer.headers["content-type"].partition(";")[0] in content
        if f"{method} {path}" not in TEXTS:
            assert faults(answer.json(), content["application/json"]["schema"], spec, path) == []
        if sent is not None:
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            assert faults(sent, body, spec, path) == []


async def test_no_route_of_twilio_or_of_the_page_is_described(front: Front) -> None:
    paths = (await description(front))["paths"]
    assert not [path for path in paths if not path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))]


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (1, {"type": "string"}),
        (True, {"type": "integer"}),
        ({"a": 1}, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({}, {"type": "object", "required": ["a"]}),
        (["a", 1], {"type": "array", "prefixItems": [{"type": "string"}]}),
        ("x", {"anyOf": [{"type": "null"}, {"type": "string", "enum": ["y"]}]}),
    ],
    ids=lambda value: json.dumps(value)[:20],
)
def test_the_comparison_finds_what_is_wrong(value: object, schema: Spec) -> None:
    assert faults(value, schema, {})
