"""A public address by cloudflared: from no tunnel to calls, and again whenever it is lost.

`course.py` decides, without I/O, what one run of cloudflared needs next. `command.py` says what to run.
`cloudflared.py` is the process and its metrics port. `keeper.py` carries out what the course decides. `number.py` leads
the Twilio number to where it ends.
"""
