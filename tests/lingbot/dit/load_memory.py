"""Load a DiT and print, as JSON, the bytes of the model and the peak above the start.

`test_weights.py` runs it in a process of its own. Linux only.
"""

import json
import sys
from pathlib import Path

import torch

from lingbot.dit.weights import load_dit

SMALL = Path(__file__).parents[2] / "golden" / "dit_cam_window"


def resident(field):
    """VmRSS or VmHWM, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def main(folder, dtype):
    options = {"device": torch.device("cpu"), "dtype": getattr(torch, dtype)}
    load_dit(SMALL, **options)  # modules that torch imports late stay in memory
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM falls to VmRSS
    before = resident("VmRSS")
    model = load_dit(Path(folder), **options)
    num_bytes = sum(parameter.nbytes for parameter in model.parameters())
    print(json.dumps({"model": num_bytes, "peak": resident("VmHWM") - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
