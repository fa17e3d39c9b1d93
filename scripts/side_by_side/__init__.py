"""The same simulated caller, in one run, to this service's line test and to two others; he hears himself on each.

    bare server     returns every packet unchanged: the floor of the method
    line test       `moshi-bridge serve` with ENGINE=loopback CODEC=loopback, frames of 80 ms at 24 kHz
    Pipecat         its FastAPI transport and Twilio serializer, frames of 80 ms at 24 kHz

`sides` are the three and how each is run, `calls` places the calls, `figures` (without I/O) says what they were like,
`run` goes through all of it, `tables` shows it. `servers/` holds the two others, programs of their own; Pipecat runs in
a virtual environment that `environment` makes. Usage: see `__main__`.
"""
