"""A Twilio of our own, with a caller: rings the service, speaks, listens, and reports what the call was like.

    CallOptions ─▶ call.simulate ─▶ CallReport (figures, JSON, stereo WAV) ─▶ measure (delay, fidelity, speech)

Without I/O: `carrier` is Twilio's end of the protocol, `playout` Twilio's buffer, `stream` what a caller does on one
stream and when, `pace` the clock. Shells: `webhook` for the form requests, `line` for the socket, `call` for the whole.

`rest` is a stand-in for Twilio's REST API, over what `account` owns: a call that is created there is placed (`callee`)
and conducted as above; `remote` is how a request ends or redirects it while it is on.
"""
