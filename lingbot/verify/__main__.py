"""`python -m lingbot.verify DIR`: rerun a golden folder and print the error of each quantity.

A golden folder holds inputs and outputs of the public reference; its file names give its kind. Exit
status: 0 if every error is below the tolerance, 1 if one is not, 2 for an unreadable folder.
"""

import argparse
import math
import sys
from pathlib import Path

from lingbot.errors import LingbotError
from lingbot.parallel.process_group import spawn_ranks
from lingbot.parallel.ulysses import SINGLE
from lingbot.verify.folder import collect


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lingbot.verify", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="split the model over N processes"
    )
    options = parser.parse_args(argv)
    if options.ranks < 1:
        parser.error(f"--ranks must be at least 1, not {options.ranks}")
    if options.ranks == 1:
        errors = collect(SINGLE, options.folder)
    else:
        errors = spawn_ranks(options.ranks, collect, options.folder)
    if isinstance(errors, LingbotError):
        print("verify:", " ".join(str(errors).split()), file=sys.stderr)  # torch's have many lines
        return 2
    for name, error in errors:
        print(f"{name}: {error:.3g}")
    worst = max((math.inf if math.isnan(error) else error for _, error in errors), default=0.0)
    print(f"worst: {worst:.3g}")
    return 0 if worst < options.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
