"""Why calls and streams end."""

from enum import StrEnum


class EndReason(StrEnum):
    """Why a call ended."""

    CALLER_HUNG_UP = "caller hung up"
    SOCKET_LOST = "the socket was lost"
    SOCKET_BLOCKED = "the socket took no more audio"
    PROTOCOL = "the peer broke the protocol"
    NO_START = "no start message in time"
    NO_SOCKET = "no socket in time"
    WRONG_CALL = "the stream belongs to another call"
    TRANSFERRED = "the call was transferred"
    HANGUP_KEY = "the caller pressed the key that ends the call"
    OPERATOR = "an operator hung up"
    TIME_LIMIT = "time limit"
    IDLE = "the caller was silent for too long"
    WORKER_LOST = "a worker was lost"
    STAGE_FAILED = "a stage could not go on"
    INTERNAL = "internal error"
    SHUTDOWN = "the service is stopping"
    REPLACED = "the call went on in a new stream"
    NO_SLOT = "no slot was free"


ERRORS = {
    EndReason.SOCKET_LOST,
    EndReason.SOCKET_BLOCKED,
    EndReason.PROTOCOL,
    EndReason.NO_START,
    EndReason.NO_SOCKET,
    EndReason.WRONG_CALL,
    EndReason.WORKER_LOST,
    EndReason.STAGE_FAILED,
    EndReason.INTERNAL,
}
"""Ends that nobody wanted."""
LINE_ENDS = {
    EndReason.CALLER_HUNG_UP,
    EndReason.SOCKET_LOST,
    EndReason.SOCKET_BLOCKED,
    EndReason.PROTOCOL,
    EndReason.REPLACED,
    EndReason.TRANSFERRED,
}
"""Ends of a stream that did not come from us: the call may go on in another stream."""
LOST_ENDS = {EndReason.SOCKET_LOST, EndReason.SOCKET_BLOCKED, EndReason.PROTOCOL}
"""Ends of a stream that the caller did not want either: the call is brought back when Twilio asks what to do next."""
