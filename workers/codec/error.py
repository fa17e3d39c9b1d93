"""What a codec raises."""


class CodecError(Exception):
    """This call's audio cannot be encoded or decoded any further; other calls are not touched."""
