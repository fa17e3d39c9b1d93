"""Which events the streams of a call make."""

import json

from app.calls.end_reason import EndReason
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
