"""Everything that knows Twilio, and nothing that does I/O.

`wire` is JSON and base64, `events` what Twilio says, `protocol` the order of it and what we say; `signature` and
`twiml` are for the webhooks. A shell (app/media.py, app/routes.py) feeds them what came in and sends what they return.
"""
