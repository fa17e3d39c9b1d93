"""The service put together: web server, background tasks, tunnel, signals."""
