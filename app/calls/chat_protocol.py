"""The protocol of Kyutai's Moshi servers (`/api/chat`): the first byte of a binary message is its kind.

Kinds 7 to 9 (coloured text, image, codes) exist in Kyutai's moshi-server; clients of speech ignore them.
"""

from enum import IntEnum


class Kind(IntEnum):
    HANDSHAKE = 0
    AUDIO = 1
    TEXT = 2
    CONTROL = 3
    METADATA = 4
    ERROR = 5
    PING = 6

    def message(self, body: bytes = b"") -> bytes:
        return bytes([self]) + body
