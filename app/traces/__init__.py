"""Traces: one OpenTelemetry span a call, made when the call is over from what is known of it anyway.

`span` says what the span says, `delivery` is the one door to OpenTelemetry and delivers from a thread of its own. It is
imported only when TRACES_ENDPOINT is set.
"""
