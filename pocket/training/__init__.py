"""What `python -m pocket.train` is made of."""
