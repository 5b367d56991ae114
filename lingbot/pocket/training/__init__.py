"""What `python -m lingbot.pocket.train` is made of."""
