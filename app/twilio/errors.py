"""What Twilio's error codes mean here and what to do about them, one line each.

The codes come from three places: REST answers (10xxx, 2xxxx), the notifications of a call (11xxx, 12xxx, 32xxx) and the
status callbacks of its media stream (319xx). https://www.twilio.com/docs/api/errors
"""

from dataclasses import dataclass

CONCURRENCY = 10004
AUTHENTICATION = 20003
NOT_FOUND = 20404
TOO_MANY_REQUESTS = 20429
INVALID_TO = 21211
UNVERIFIED_TO = 21219
NOT_IN_PROGRESS = 21220
WEBHOOK_FAILED = 11200
BAD_TWIML = 12100
NO_HANDSHAKE = 31920
OUR_SIDE_CLOSED = 31921


@dataclass(frozen=True, slots=True)
class Meaning:
    """What has happened, and what to do."""

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


MEANINGS = {
    10001: Meaning("the account is not active", "see the console for why it was suspended"),
    CONCURRENCY: Meaning(
        "the account has as many calls on as it may", "wait for one to end, or complete the account's business profile"
    ),
    WEBHOOK_FAILED: Meaning(
        "Twilio got no usable answer from our webhook",
        "is the bridge up, PUBLIC_URL its address, TWILIO_AUTH_TOKEN the token of this account?",
    ),
    11205: Meaning("Twilio could not connect to our webhook", "is the tunnel up, and does PUBLIC_URL lead to it?"),
    11210: Meaning("Twilio knows no host of our webhook's name", "check PUBLIC_URL; a new tunnel's name takes minutes"),
    BAD_TWIML: Meaning("what our webhook answered is not TwiML", "does PUBLIC_URL lead to the bridge?"),
    AUTHENTICATION: Meaning(
        "Twilio does not accept the account SID and token",
        "copy TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN anew from the console",
    ),
    NOT_FOUND: Meaning("Twilio has nothing under this SID", "check the SID and TWILIO_ACCOUNT_SID"),
    TOO_MANY_REQUESTS: Meaning("too many requests at once", "wait a moment; an account places one call a second"),
    21205: Meaning("Twilio cannot use our URL", "PUBLIC_URL must be an https address that can be reached from outside"),
    21210: Meaning("the number to call from is not this account's", "set TWILIO_PHONE_NUMBER to a number that it owns"),
    INVALID_TO: Meaning("the number to call is not valid", "write it with + and the country code"),
    21212: Meaning("the number to call from is not valid", "write TWILIO_PHONE_NUMBER with + and the country code"),
    21214: Meaning("the number to call cannot be reached", "check that it exists and takes calls"),
    21215: Meaning(
        "the account may not call this country", "allow it in the console under Voice, Geographic Permissions"
    ),
    21216: Meaning("the account may not call this number", "Twilio blocks it; ask Twilio's support"),
    UNVERIFIED_TO: Meaning(
        "a trial account calls verified numbers only", "verify the number in the console, or upgrade the account"
    ),
    NOT_IN_PROGRESS: Meaning("the call is not on", "it has ended already, or has not been answered yet"),
    31901: Meaning("Twilio's media socket found no connection in time", "is the tunnel up and the bridge behind it?"),
    31903: Meaning("the media socket broke: our side vanished", "see the bridge's log; the tunnel may have dropped it"),
    31910: Meaning("no TLS with the media socket", "PUBLIC_URL needs a certificate that is publicly valid"),
    NO_HANDSHAKE: Meaning(
        "the bridge, or what stands before it, refused the media socket",
        "see the bridge's log; PUBLIC_URL must be exactly the address that Twilio uses",
    ),
    OUR_SIDE_CLOSED: Meaning("our side closed the media socket", "this is how the bridge ends a call"),
    31922: Meaning("the media socket is not wss", "PUBLIC_URL must begin with https"),
    31924: Meaning("the media socket broke the WebSocket protocol", "does a proxy change what passes through?"),
    31930: Meaning("the bridge read too slowly and lost the caller's audio", "is the machine overloaded?"),
    31931: Meaning(
        "more than ten minutes of audio were waiting to be played", "see the bridge's log, this is a defect"
    ),
    31941: Meaning("the stream asked for a track that it may not have", "see the bridge's log, this is a defect"),
    31950: Meaning("the bridge sent a binary message", "see the bridge's log, this is a defect"),
    31951: Meaning("the bridge sent a message that Twilio does not know", "see the bridge's log, this is a defect"),
    32009: Meaning("the SIP user who was called is not registered", "check the number to call"),
    32011: Meaning("the SIP server on the other side does not answer", "check the trunk that the call goes through"),
    32014: Meaning("the call was ended because no audio came", "check the trunk or client that the call goes through"),
}


def explain(code: int) -> str:
    """Return what a code means and what to do, in one line; where to look it up if it is not known here."""
    meaning = MEANINGS.get(code)
    return f"{code}: {meaning}" if meaning else f"{code}: see https://www.twilio.com/docs/api/errors/{code}"
