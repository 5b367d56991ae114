"""The protocol without I/O: no socket, no thread, no clock. An import contract keeps it pure."""
