"""The fake world of the transport's tests, on real sockets."""

from tests.transport.conftest import listen, make_world

__all__ = ["listen", "make_world"]
