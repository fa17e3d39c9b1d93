"""What Twilio's error codes mean here and what to do about them, one line each.

The codes come from three places: REST answers (10xxx, 2xxxx), the notifications of a call (11xxx, 12xxx, 32xxx) and the
status callbacks of its media stream (319xx). https://www.twilio.com/docs/api/errors
"""

CONCURRENCY = 10004
NOT_IN_PROGRESS = 21220
MEANINGS = {
    10001: "the account is not active; see the console for why it was suspended",
    CONCURRENCY: "the account has as many calls on as it may; "
    "wait for one to end, or complete the account's business profile",
    11200: "Twilio got no usable answer from our webhook; "
    "is the bridge up, PUBLIC_URL its address, TWILIO_AUTH_TOKEN the token of this account?",
    11205: "Twilio could not connect to our webhook; is the tunnel up, and does PUBLIC_URL lead to it?",
    11210: "Twilio knows no host of our webhook's name; check PUBLIC_URL; a new tunnel's name takes minutes",
    12100: "what our webhook answered is not TwiML; does PUBLIC_URL lead to the bridge?",
    20003: "Twilio does not accept the account SID and token; "
    "copy TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN anew from the console",
    20404: "Twilio has nothing under this SID; check the SID and TWILIO_ACCOUNT_SID",
    20429: "too many requests at once; wait a moment; an account places one call a second",
    21205: "Twilio cannot use our URL; PUBLIC_URL must be an https address that can be reached from outside",
    21210: "the number to call from is not this account's; set TWILIO_PHONE_NUMBER to a number that it owns",
    21211: "the number to call is not valid; write it with + and the country code",
    21212: "the number to call from is not valid; write TWILIO_PHONE_NUMBER with + and the country code",
    21214: "the number to call cannot be reached; check that it exists and takes calls",
    21215: "the account may not call this country; allow it in the console under Voice, Geographic Permissions",
    21216: "the account may not call this number; Twilio blocks it; ask Twilio's support",
    21219: "a trial account calls verified numbers only; verify the number in the console, or upgrade the account",
    NOT_IN_PROGRESS: "the call is not on; it has ended already, or has not been answered yet",
    31901: "Twilio's media socket found no connection in time; is the tunnel up and the bridge behind it?",
    31903: "the media socket broke: our side vanished; see the bridge's log; the tunnel may have dropped it",
    31910: "no TLS with the media socket; PUBLIC_URL needs a certificate that is publicly valid",
    31920: "the bridge, or what stands before it, refused the media socket; "
    "see the bridge's log; PUBLIC_URL must be exactly the address that Twilio uses",
    31921: "our side closed the media socket; this is how the bridge ends a call",
    31922: "the media socket is not wss; PUBLIC_URL must begin with https",
    31924: "the media socket broke the WebSocket protocol; does a proxy change what passes through?",
    31930: "the bridge read too slowly and lost the caller's audio; is the machine overloaded?",
    31931: "more than ten minutes of audio were waiting to be played; see the bridge's log, this is a defect",
    31941: "the stream asked for a track that it may not have; see the bridge's log, this is a defect",
    31950: "the bridge sent a binary message; see the bridge's log, this is a defect",
    31951: "the bridge sent a message that Twilio does not know; see the bridge's log, this is a defect",
    32009: "the SIP user who was called is not registered; check the number to call",
    32011: "the SIP server on the other side does not answer; check the trunk that the call goes through",
    32014: "the call was ended because no audio came; check the trunk or client that the call goes through",
}
"""What has happened; what to do."""


class CarrierError(Exception):
    """Twilio refused, or could not be reached; the message is one line."""


def explain(code: int) -> str:
    """Return what a code means and what to do, in one line; where to look it up if it is not known here."""
    return f"{code}: {MEANINGS.get(code) or f'see https://www.twilio.com/docs/api/errors/{code}'}"
