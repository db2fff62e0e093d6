"""Make the list of ImageNet's classes, in their order: a synset and its name a line.

    python scripts/make_imagenet_classes.py INFO_DIR OUT

INFO_DIR is ``timm/data/_info`` of an installed timm; the names in it are WordNet's.
"""

import collections
import sys
from pathlib import Path


def make(info: Path, out: Path) -> None:
    """Write the lines; where two classes have one name, the synset tells them apart."""
    synsets = (info / "imagenet_synsets.txt").read_text("utf-8").split()
    lines = (info / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    lemmas = dict(line.split("\t") for line in lines)
    names = [lemmas[synset].partition(",")[0] for synset in synsets]
    counts = collections.Counter(names)
    rows = [
        f"{synset}\t{name if counts[name] == 1 else f'{name} ({synset})'}\n"
        for synset, name in zip(synsets, names, strict=True)
    ]
    out.write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
