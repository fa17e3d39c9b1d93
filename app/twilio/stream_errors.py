"""What Twilio's error codes of streams and webhooks mean for this service, and what to do about each.

https://www.twilio.com/docs/api/errors
"""

EXPLAINED: dict[int, str] = {
    11200: "Twilio could not fetch our TwiML: see that PUBLIC_URL leads here, and that TWILIO_AUTH_TOKEN is its token",
    31901: "Twilio could not reach the socket in time: see that PUBLIC_URL leads here, and that the tunnel is up",
    31903: "the socket broke: see that the service and the tunnel run on, and look for the same moment in our log",
    31910: "TLS failed: PUBLIC_URL must be https with a certificate that browsers accept",
    31920: "the socket was refused: PUBLIC_URL must be the address that Twilio calls, and TWILIO_AUTH_TOKEN its token; "
    "a proxy on the way must pass WebSocket upgrades on",
    31921: "our side closed the stream: the call's record says why",
    31922: "the stream's address is not wss: PUBLIC_URL must begin with https",
    31924: "the WebSocket protocol was broken on the way: see that no proxy changes what passes",
    31930: "we read too slowly, and Twilio threw the caller's audio away: lower MAX_CALLS, or take a faster machine",
    31931: "more than ten minutes of audio waited to be played: a defect of this service, please report it",
    31941: "a track was asked for that this kind of stream has not: a defect of this service, please report it",
    31950: "a binary message was sent: a defect of this service, please report it",
    31951: "a message was not such as Twilio reads: a defect of this service, please report it",
}
UNKNOWN = "see https://www.twilio.com/docs/api/errors/{code}"


def explain(code: int) -> str:
    """Return in one line what a code means and what to do."""
    return EXPLAINED.get(code) or UNKNOWN.format(code=code)
