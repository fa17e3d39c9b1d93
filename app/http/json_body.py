"""JSON objects that operators and their programs post."""

import json
from http import HTTPStatus

from fastapi import HTTPException, Request

from app.http.twilio_routes import read_body

JSON_TYPE = "application/json"
WITHIN_S = 10.0


async def read_strings(request: Request, wanted: str, max_bytes: int, **fields: str | None) -> list[str]:
    """Return the strings of the object that is sent. Raises HTTPException 400, 408, 413, 415 or 422, each in one line.

    `wanted` says what to send; `fields` has their names with what they are if they are not sent, None if they must be.
    """
    sent = await _read_object(request, wanted, max_bytes)
    strings = [one for name in fields if isinstance(one := sent.get(name, fields[name]), str)]
    if sent.keys() - fields.keys() or len(strings) < len(fields):
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, wanted)
    return strings


async def _read_object(request: Request, wanted: str, max_bytes: int) -> dict[str, object]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON_TYPE:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{wanted} with the Content-Type {JSON_TYPE}")
    try:
        body = await read_body(request, max_bytes, WITHIN_S)
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "the text did not arrive in time") from None
    if body is None:
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is larger than {max_bytes} bytes")
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"not JSON: {wanted}") from None
    if not isinstance(sent, dict):
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, wanted)
    return sent
