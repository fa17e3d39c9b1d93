"""Messages as Twilio's documentation shows them, and a way to make them something else.

The payload is cut short, and the track is the inbound one: the documentation's example is of an outbound track, which
a bidirectional stream never carries.
https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

import json

STREAM_SID = "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
CALL_SID = "CAXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
ACCOUNT_SID = "ACXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"

SIDS = {"accountSid": ACCOUNT_SID, "callSid": CALL_SID}
FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
PARAMETERS = {"FirstName": "Jane", "LastName": "Doe", "RemoteParty": "Bob"}


def _message(event: str, sequence: int, **body: object) -> str:
    return json.dumps({"event": event, "sequenceNumber": str(sequence), "streamSid": STREAM_SID, event: body})


CONNECTED = '{"event": "connected", "protocol": "Call", "version": "1.0.0"}'
START = _message(
    "start",
    1,
    **SIDS,
    streamSid=STREAM_SID,
    tracks=["inbound"],
    mediaFormat=FORMAT,
    customParameters=PARAMETERS,
)
MEDIA = _message("media", 3, track="inbound", chunk="1", timestamp="5", payload="no+JhoaJjpw=")
MARK = _message("mark", 4, name="my label")
DTMF = _message("dtmf", 5, track="inbound_track", digit="1")
STOP = _message("stop", 5, **SIDS)
BY_KIND = {"connected": CONNECTED, "start": START, "media": MEDIA, "dtmf": DTMF, "mark": MARK, "stop": STOP}


def changed(message: str, path: str, value: object) -> str:
    """Return the message with another value at `a.b.c`; an Ellipsis takes the key out."""
    fields = inner = json.loads(message)
    *way, last = path.split(".")
    for key in way:
        inner = inner[key]
    inner[last] = value
    if value is ...:
        del inner[last]
    return json.dumps(fields)
