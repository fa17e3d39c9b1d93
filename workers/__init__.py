"""The processes behind the phone line: codec and engine.

A one-way ring, each arrow a socket pair that carries `workers.messages`:

    app ── Frame ──▶ encoder ── Codes ──▶ engine ── Codes ──▶ decoder ── Frame ──▶ app

`Open` and `Close` travel the same way round, so that they keep their place among the frames. This package never
imports `app`.
"""
