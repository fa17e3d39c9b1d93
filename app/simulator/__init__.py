"""A simulated Twilio with a caller: rings the service, speaks, listens, and reports what the call was like.

    CallOptions ─▶ call.simulate ─▶ CallReport (figures, JSON, stereo WAV) ─▶ measure (latency, signal-to-noise ratio)

Without I/O: `carrier` is Twilio's end of the protocol, `playout` its buffer, `stream` the caller on one stream,
`trouble` what goes wrong on the line, `virtual` a whole call in virtual time. With I/O: `client` sends form requests
and has the socket, `call` runs the whole; `remote` ends or redirects a call as the REST API does.
"""
