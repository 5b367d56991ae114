"""The measurements of `python -m pocket.evaluate`."""
