"""Write the photographs that ship with the package, from scikit-image's, which are public domain.

    python scripts/update_samples.py

"cat" is Chelsea, by Stefan van der Walt; "coffee" is by Rachel Michetti, courtesy of Pikolo
Espresso Bar; "rocket" is by SpaceX, of the launch of DSCOVR. All are dedicated to the public domain
(CC0). Needs scikit-image.
"""

from pathlib import Path

from PIL import Image
from skimage import data

TARGET = Path(__file__).parent.parent / "src/bottleneck_transformer_flax/export/samples"
LONGEST_SIDE = 360


def main() -> None:
    for name, pixels in (
        ("cat", data.chelsea()),
        ("coffee", data.coffee()),
        ("rocket", data.rocket()),
    ):
        image = Image.fromarray(pixels)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        image.save(TARGET / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
