"""Makes the README's pictures of the pocket world with a server's clip endpoint.

    make serve
    .venv/bin/python docs/pictures.py

Posts each opening of the pocket world to `/v1/clips`; writes docs/walk.webp, a walk that moves, and
docs/sheet.jpg, one row of frames for each opening.
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
WALK = "none-2,w-10,wl-6,w-8,wj-8,w-8,l-6,w-12"  # fifteen seconds
SHEET = "none-2,w-8,wl-6,w-8,wj-6,w-6"
COLUMNS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--walk", default=None, help="the opening that moves; absent: the first")
    options = parser.parse_args()
    openings = json.loads((POCKET / "openings.json").read_text())
    chosen = next(one for one in openings if options.walk in (None, one["name"]))
    frames = post_clip(options.url, chosen, WALK)
    first, *rest = (Image.fromarray(frame) for frame in frames[::2])
    first.save(
        HERE / "walk.webp", save_all=True, append_images=rest, duration=125, loop=0, quality=80
    )
    rows = []
    for opening in openings:
        frames = post_clip(options.url, opening, SHEET)
        chosen_frames = np.linspace(0, len(frames) - 1, COLUMNS).astype(int)
        rows.append(np.concatenate([frames[i] for i in chosen_frames], axis=1))
    Image.fromarray(np.concatenate(rows)).save(HERE / "sheet.jpg", quality=92)


def post_clip(url: str, opening: dict[str, str], actions: str) -> list[np.ndarray]:
    """The frames of a walk from this opening, [H, W, 3] each."""
    image = base64.b64encode((POCKET / opening["file"]).read_bytes()).decode()
    body = {"actions": actions, "image": image, "prompt": opening["prompt"]}
    request = urllib.request.Request(
        f"{url}/v1/clips",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        film = io.BytesIO(answer.read())
    with av.open(film) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


if __name__ == "__main__":
    main()
