"""JSON objects that operators and their programs post."""

import json
from http import HTTPStatus

from fastapi import HTTPException, Request

from app.http.twilio_routes import read_body

JSON_TYPE = "application/json"


async def read_json_object(request: Request, wanted: str, max_bytes: int, within_s: float) -> dict[str, object]:
    """Return the object that is sent. Raises HTTPException 400, 408, 413, 415 or 422, each in one line.

    `wanted` says what to send.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON_TYPE:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{wanted} with the Content-Type {JSON_TYPE}")
    try:
        body = await read_body(request, max_bytes, within_s)
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
