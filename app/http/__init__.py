"""Every HTTP route and WebSocket, and who may use them."""
