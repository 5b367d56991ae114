"""What `python -m lingbot.pocket.evaluate` measures with."""
