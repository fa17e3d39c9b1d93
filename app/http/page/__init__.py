"""The operator's page: static files that hold no facts, and the way to sign in.

What it shows comes from `/api/live` (pushed, or asked for where sockets do not get through), `/api/history` and the
events of a call. There is no build: a browser reads `assets/` as it is, and takes nothing from anywhere else.
"""
