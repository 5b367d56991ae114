"""The pictures that a pocket world can start from: python -m lingbot.pocket.openings."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lingbot.camera import yaw_matrix
from lingbot.config import POCKET
from lingbot.pocket.data import FIRST_HELD_OUT_SEED
from lingbot.pocket.render import render
from lingbot.pocket.scene import make_scene

FOLDER = Path(__file__).parent
# Name, scene (after the first seed that training leaves out), heading in degrees.
CHOSEN = (
    ("noon", 55, 180),
    ("sunset", 50, 180),
    ("morning", 53, 90),
    ("plain", 57, 180),
    ("tiles", 47, 180),
    ("night", 48, 180),
)


def main() -> None:
    (FOLDER / "openings").mkdir(exist_ok=True)
    openings = []
    for name, scene_number, heading in CHOSEN:
        scene = make_scene(FIRST_HELD_OUT_SEED + scene_number)
        pose = np.eye(4)
        pose[:3, :3] = yaw_matrix(heading)
        frame = render(scene, pose[None], width=POCKET.width, height=POCKET.height)[0]
        Image.fromarray(frame.numpy()).save(FOLDER / "openings" / f"{name}.png", optimize=True)
        openings.append({"name": name, "file": f"openings/{name}.png", "prompt": scene.prompt})
    (FOLDER / "openings.json").write_text(json.dumps(openings, indent=1) + "\n")


if __name__ == "__main__":
    main()
