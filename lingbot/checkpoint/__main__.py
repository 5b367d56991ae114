"""`python -m lingbot.checkpoint DIR`: print what a checkpoint on disk is. Weights are not read.

DIR is a folder, or the file of a DiT. Exit status: 0 if it can be served, 1 with the reason if not.
"""

import argparse
import sys
from pathlib import Path

from lingbot.checkpoint.layout import find_checkpoint
from lingbot.checkpoint.report import check_parts, describe
from lingbot.errors import LingbotError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lingbot.checkpoint", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--assets", type=Path, metavar="DIR", help="a second folder with VAE, umT5 and tokenizer"
    )
    options = parser.parse_args(argv)
    try:
        checkpoint = find_checkpoint(options.folder, assets=options.assets)
        from lingbot.dit.weights import build_on_meta  # imported late: torch takes seconds

        model, _ = build_on_meta(checkpoint.dit)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        for name, value in describe(checkpoint, num_parameters=num_parameters):
            print(f"{name}: {value}")
        check_parts(checkpoint)
    except LingbotError as exc:
        print("checkpoint:", " ".join(str(exc).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
