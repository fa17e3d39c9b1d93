"""The operator page: static files without a build step, and the login.

The page reads `/api/live` (pushed over a WebSocket, polled where that does not get through), `/api/history` and the
events of a call. It loads nothing from other hosts.
"""
