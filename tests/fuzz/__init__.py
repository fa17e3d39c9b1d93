"""Generated input against the real code: socket messages through whole calls, requests through the routes."""
