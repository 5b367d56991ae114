"""Programs that use a running server: `python -m examples.NAME`."""
