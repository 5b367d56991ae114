"""What `python -m lingbot.pocket.evaluate` measures, and with what."""
