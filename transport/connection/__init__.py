"""One WebSocket connection, from handshake to close."""
