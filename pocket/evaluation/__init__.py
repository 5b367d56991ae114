"""What `python -m pocket.evaluate` measures, and with what."""
