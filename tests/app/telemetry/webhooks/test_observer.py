"""Which events the streams of a call make."""

import json
from typing import Any

from app.calls.end_reason import EndReason
from app.calls.session import End
from app.telemetry.webhooks.observer import WebhookObserver
from app.telemetry.webhooks.queue import WebhookEvent
from app.twilio.events import Stopped
from tests.app.calls.front import ANN, Front


async def test_a_call_starts_once_with_the_first_of_its_streams_that_does() -> None:
    events: list[WebhookEvent] = []
    front = Front(observers=[lambda call: WebhookObserver(call.session, events.append, digits=False)])
    front.open_socket(front.ring(ANN)).end(EndReason.SOCKET_LOST)  # before Twilio's `start`
    for _ in range(2):
        front.talk(ANN).handle_event(Stopped())
    ended = "call.ended"
    assert [json.loads(event.body)["type"] for event in events] == [ended, "call.started", ended, ended]


async def test_the_end_of_a_call_reads_none_of_its_words() -> None:
    """An hour of them takes a fifth of a second, in which the other calls would get no audio."""
    events: list[WebhookEvent] = []
    call = Front().talk(ANN)
    observer = WebhookObserver(call.session, events.append, digits=False)
    words: list[Any] = call.session.record.words
    words.append("unreadable")
    observer.on_end(End(EndReason.CALLER_HUNG_UP), 0.0)
    observer.on_words_end(0.0)
    [data] = [json.loads(event.body)["data"] for event in events]
    assert data.keys() >= {"from", "to", "direction", "persona", "end", "detail", "recording", "started_s", "ended_s"}
    assert [stream["number"] for stream in data["streams"]] == [1]
