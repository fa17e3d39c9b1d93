"""A client of the Moshi protocol, for a microphone and a loudspeaker or for files; it talks to any Moshi server."""
