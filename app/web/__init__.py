"""What is asked over HTTP and WebSockets, and who may ask."""
