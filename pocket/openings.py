"""Renders the first frames from which a pocket world can start: python -m pocket.openings."""

import argparse
import json

from PIL import Image

from lingbot.config import PRESETS_FOLDER
from pocket.renderer.prompt import write_prompt
from pocket.renderer.render import Renderer
from pocket.renderer.scene import make_scene
from pocket.renderer.trajectory import walk_poses
from pocket.training.clips import FIRST_HELD_OUT_SEED
from pocket.training.config import SIZE

FOLDER = PRESETS_FOLDER / "pocket"
# Name, scene number counted from the first held-out seed, heading in degrees.
OPENINGS = (
    ("pines", 101, 180),
    ("street", 95, 0),
    ("lake", 22, 180),
    ("dusk", 25, 90),
    ("night", 34, 180),
    ("fog", 11, 270),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    (FOLDER / "openings").mkdir(exist_ok=True)
    for old in (FOLDER / "openings").iterdir():
        old.unlink()
    openings = []
    for name, scene_number, heading in OPENINGS:
        scene = make_scene(FIRST_HELD_OUT_SEED + scene_number)
        _, poses = walk_poses([""], start=(0, 0, heading))
        frame = Renderer(scene).render(poses, **SIZE)[0]
        Image.fromarray(frame.numpy()).save(FOLDER / "openings" / f"{name}.png", optimize=True)
        prompt = write_prompt(scene)
        openings.append({"name": name, "file": f"openings/{name}.png", "prompt": prompt})
    (FOLDER / "openings.json").write_text(json.dumps(openings, indent=1) + "\n")


if __name__ == "__main__":
    main()
