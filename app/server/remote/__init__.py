"""Moshi servers elsewhere, of any kind, that speak in calls in place of our own pipeline (`ENGINE=remote`)."""
