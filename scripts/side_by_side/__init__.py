"""The same simulated caller, in one run, to this service's line test and to two other servers that echo.

    bare server     returns every packet unchanged: the least that a server can take
    line test       `moshi-bridge serve` with ENGINE=loopback CODEC=loopback, frames of 80 ms at 24 kHz
    Pipecat         its FastAPI transport and Twilio serializer, frames of 80 ms at 24 kHz

`servers/` holds the two others, programs of their own; Pipecat runs in a virtual environment that `environment` makes.
Usage: `python -m scripts.side_by_side --help`.
"""
