"""Everything that knows Twilio; nothing here does I/O but `rest` and what is built on it.

`wire` is JSON and base64, `events` what Twilio says, `protocol` the order of it and what we say; `signature` and
`twiml` are for the webhooks. A shell (`app/web/`) feeds them what came in and sends what they return.
`rest` is the door to Twilio's REST API, `errors` what its codes mean, `number` where our number leads.
"""
