"""Messages as Twilio's documentation shows them, and a way to make them something else.

The payload is cut short, and the track is the inbound one: the documentation's example is of an outbound track, which
a bidirectional stream never carries.
https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

import json

STREAM_SID = "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
CALL_SID = "CAXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
ACCOUNT_SID = "ACXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"

CONNECTED = """{
 "event": "connected",
 "protocol": "Call",
 "version": "1.0.0"
}"""
START = """{
 "event": "start",
 "sequenceNumber": "1",
 "start": {
   "accountSid": "ACXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
   "streamSid": "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
   "callSid": "CAXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
   "tracks": [ "inbound" ],
   "mediaFormat": {
     "encoding": "audio/x-mulaw",
     "sampleRate": 8000,
     "channels": 1
   },
   "customParameters": {
     "FirstName": "Jane",
     "LastName": "Doe",
     "RemoteParty": "Bob"
   }
 },
 "streamSid": "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
}"""
MEDIA = """{
 "event": "media",
 "sequenceNumber": "3",
 "media": {
   "track": "inbound",
   "chunk": "1",
   "timestamp": "5",
   "payload": "no+JhoaJjpw="
 },
 "streamSid": "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
}"""
DTMF = """{
 "event": "dtmf",
 "streamSid": "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
 "sequenceNumber": "5",
 "dtmf": {
   "track": "inbound_track",
   "digit": "1"
 }
}"""
MARK = """{
 "event": "mark",
 "sequenceNumber": "4",
 "streamSid": "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
 "mark": {
   "name": "my label"
 }
}"""
STOP = """{
 "event": "stop",
 "sequenceNumber": "5",
 "stop": {
   "accountSid": "ACXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
   "callSid": "CAXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
 },
 "streamSid": "MZXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"
}"""

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
