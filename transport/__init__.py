"""The conversation between a client and a world: messages, their order, payloads, sockets."""
