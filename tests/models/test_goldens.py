"""Names, shapes and weight-decay marks of each distinct network's variables, as text.

The names are the checkpoint format. A golden is kept for one variant of each network; the others
have more of the same blocks, or tables for another grid. Run ``pytest tests/models/test_goldens.py
--update-goldens`` to write the files anew, then read the difference before committing it.
"""

import re
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.models.variants import VARIANTS
from bottleneck_transformer_flax.training.optimizer import decays
from reference.small_models import NAMES, variant_shapes

GOLDENS = Path(__file__).parent.parent / "goldens"
FAMILIES = {
    "botnet50": ["botnet101", "botnet152", "botnet200", "botnet_s1_50"],
    "botnet_t3": ["botnet_t4", "botnet_t5", "botnet_t6", "botnet_t7"],
    "resnet50": ["resnet101", "resnet152"],
    "seresnet50": ["seresnet101", "seresnet152"],
}
"""Variants whose network is that of another, but for its depth and the size of its tables."""


def in_order(path):
    """c5/block_10 after c5/block_9."""
    return [(part.rstrip("0123456789"), len(part), part) for part in path]


def described(name):
    variables = variant_shapes(name)
    lines = []
    for collection in ("params", "batch_stats"):
        leaves = flatten_dict(variables[collection])
        for path in sorted(leaves, key=in_order):
            kind = "statistic"
            if collection == "params":
                kind = "decay" if decays(path) else "no-decay"
            shape = "x".join(map(str, leaves[path].shape))
            lines.append(f"{'/'.join(path)} {shape} {kind}")
    return lines


@pytest.mark.parametrize("name", [name for name in NAMES if name != "botnet_s1_50"])
def test_variables_are_the_goldens(name, update_goldens):
    file = GOLDENS / f"{name}.txt"
    lines = described(name)
    if update_goldens:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert file.exists(), "no golden yet: run with --update-goldens, then read it"
    golden = file.read_text(encoding="utf-8").splitlines()
    gone, new = sorted(set(golden) - set(lines)), sorted(set(lines) - set(golden))
    assert not gone and not new, f"gone: {gone[:5]}, new: {new[:5]}"
    assert lines == golden


def blocks(lines):
    """{stage: its number of blocks}, and every line of a block that differs from the others.

    All blocks after the first of a stage are block_2, and tables have any number of rows.
    """
    text = "\n".join(lines)
    depths = {}
    for stage, block in re.findall(r"(c\d)/block_(\d+)/", text):
        depths[stage] = max(depths.get(stage, 0), int(block))
    text = re.sub(r"block_(?!1/)\d+/", "block_2/", text)
    return depths, set(re.sub(r"(relative_\w+) \d+x", r"\1 …x", text).splitlines())


@pytest.mark.parametrize(
    ("golden", "name"),
    [
        pytest.param(golden, name, marks=() if name == "botnet_s1_50" else pytest.mark.slow)
        for golden, names in FAMILIES.items()
        for name in names
    ],
)
def test_variants_of_one_network_differ_in_depth_and_tables_alone(golden, name):
    depths, lines = blocks(described(name))
    assert tuple(depths.values()) == VARIANTS[name].config.stage_sizes
    assert lines == blocks((GOLDENS / f"{golden}.txt").read_text("utf-8").splitlines())[1]


def test_every_variant_has_a_golden_and_every_golden_is_of_a_variant():
    files = sorted(file.stem for file in GOLDENS.glob("*.txt"))
    others = [name for names in FAMILIES.values() for name in names]
    assert sorted([*files, *others]) == sorted(VARIANTS)


@pytest.mark.parametrize("name", ["botnet_t3", "resnet50"])
def test_decay_leaves_out_norms_and_biases_alone(name):
    for line in (GOLDENS / f"{name}.txt").read_text("utf-8").splitlines():
        path, shape, kind = line.split()
        if kind == "statistic":
            assert path.endswith(("/mean", "/var")), path
            continue
        exempt = path.endswith("/bias") or any(part.endswith("norm") for part in path.split("/"))
        assert (kind == "no-decay") == exempt == ("x" not in shape), path
