"""The parts of `python -m pocket.train`."""
