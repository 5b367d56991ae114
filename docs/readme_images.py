"""Generates the README's images of the pocket world with a server's clip endpoint.

    make serve
    .venv/bin/python docs/readme_images.py

Posts each opening of the pocket world to `/v1/clips`. Writes docs/walk.webp, an animated walk, and
docs/grid.jpg, one row of frames for each opening.
"""

import argparse
import base64
import io
import json
import urllib.request
from pathlib import Path

import av
import numpy as np
from PIL import Image

HERE = Path(__file__).parent
POCKET = HERE.parent / "lingbot" / "presets" / "pocket"
WALK_ACTIONS = "none-2,w-10,wl-6,w-8,wj-8,w-8,l-6,w-12"  # fifteen seconds
GRID_ACTIONS = "none-2,w-8,wl-6,w-8,wj-6,w-6"
NUM_COLUMNS = 6
REQUEST_TIMEOUT_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--walk", help="name of the opening of the walk; default: the first one")
    options = parser.parse_args()
    openings = json.loads((POCKET / "openings.json").read_text())
    chosen = next(one for one in openings if options.walk in (None, one["name"]))
    frames = post_clip(options.url, chosen, WALK_ACTIONS)
    first, *rest = (Image.fromarray(frame) for frame in frames[::2])
    first.save(
        HERE / "walk.webp", save_all=True, append_images=rest, duration=125, loop=0, quality=80
    )
    rows = []
    for opening in openings:
        frames = post_clip(options.url, opening, GRID_ACTIONS)
        columns = np.linspace(0, len(frames) - 1, NUM_COLUMNS).astype(int)
        rows.append(np.concatenate([frames[i] for i in columns], axis=1))
    Image.fromarray(np.concatenate(rows)).save(HERE / "grid.jpg", quality=92)


def post_clip(url: str, opening: dict[str, str], actions: str) -> list[np.ndarray]:
    """Return the frames of a walk from an opening, [H, W, 3] each."""
    image = base64.b64encode((POCKET / opening["file"]).read_bytes()).decode()
    body = {"actions": actions, "image": image, "prompt": opening["prompt"]}
    request = urllib.request.Request(
        f"{url}/v1/clips",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:
        video = io.BytesIO(response.read())
    with av.open(video) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


if __name__ == "__main__":
    main()
