"""Everything that knows Twilio; without I/O but for `rest`, `rest_http` and `number`.

`wire` is JSON and base64, `events` Twilio's messages, `protocol` their order; `signature`, `form`, `status` and `twiml`
are for the webhooks. `rest` is the REST API, `errors` what its codes mean, `number` where our number leads.
"""
