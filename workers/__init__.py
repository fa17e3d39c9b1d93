"""The processes behind the phone line: codec and engine.

One pipeline, each arrow a socket pair that carries `workers.messages`:

    app ── Frame ──▶ encoder ── Codes ──▶ engine ── Codes ──▶ decoder ── Frame ──▶ app

`Open` and `Close` travel the same way and come back to the app, so that they keep their place among the frames. The
supervisor starts, watches and ends the three processes; the engine may outlive the other two. This package never
imports `app`.
"""
