"""Imported by scripts that want the package `transport`, which is also the name of one of them."""

import sys
from pathlib import Path

HERE = Path(__file__).parent

# A script's own folder comes first by default: from here on it comes last.
sys.path[:] = [str(HERE.parent), *(place for place in sys.path if place != str(HERE)), str(HERE)]
