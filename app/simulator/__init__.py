"""A Twilio of our own, with a caller: rings the service, speaks, listens, and reports what the call was like.

    CallOptions ─▶ call.simulate ─▶ CallReport (figures, JSON, stereo WAV) ─▶ measure (delay, fidelity, speech)

Without I/O: `carrier` is Twilio's end of the protocol, `playout` Twilio's buffer, `stream` what a caller does on one
stream and when, `pace` the clock. Shells: `webhook` for the form requests, `line` for the socket, `call` for the whole.
"""
