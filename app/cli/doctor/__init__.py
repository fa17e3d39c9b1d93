"""`moshi-bridge doctor`: what is missing, and what to type."""
