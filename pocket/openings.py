"""The pictures that a pocket world can start from: python -m pocket.openings."""

import json

from PIL import Image

from lingbot.config import PRESETS_FOLDER
from pocket.renderer.render import Renderer
from pocket.renderer.scene import describe, make_scene
from pocket.renderer.trajectory import walk
from pocket.training.data import FIRST_HELD_OUT_SEED, SIZE

FOLDER = PRESETS_FOLDER / "pocket"
# Name, scene (after the first seed that training leaves out), heading in degrees.
CHOSEN = (
    ("pines", 101, 180),
    ("street", 95, 0),
    ("lake", 22, 180),
    ("dusk", 25, 90),
    ("night", 34, 180),
    ("fog", 11, 270),
)


def main() -> None:
    (FOLDER / "openings").mkdir(exist_ok=True)
    for old in (FOLDER / "openings").iterdir():
        old.unlink()
    openings = []
    for name, scene_number, heading in CHOSEN:
        scene = make_scene(FIRST_HELD_OUT_SEED + scene_number)
        _, poses = walk([""], start=(0, 0, heading))
        frame = Renderer(scene).render(poses, **SIZE)[0]
        Image.fromarray(frame.numpy()).save(FOLDER / "openings" / f"{name}.png", optimize=True)
        prompt = describe(scene)
        openings.append({"name": name, "file": f"openings/{name}.png", "prompt": prompt})
    (FOLDER / "openings.json").write_text(json.dumps(openings, indent=1) + "\n")


if __name__ == "__main__":
    main()
