"""Serving policy: which session ends and which client waits. No clock, no I/O, no cluster."""
