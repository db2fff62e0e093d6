"""Every variant's variables as text: name, shape, and whether weight decay applies.

The names are the checkpoint format. ``pytest tests/models/test_goldens.py --update-goldens`` writes
the files anew; then read the difference before committing it.
"""

from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.models.variants import list_variants
from bottleneck_transformer_flax.training.optimizer import decays
from reference.small_models import variant_shapes

GOLDENS = Path(__file__).parent.parent / "goldens"


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


@pytest.mark.parametrize("name", list_variants())
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


def test_every_golden_is_of_a_variant(update_goldens):
    files = {file.stem: file for file in GOLDENS.glob("*.txt")}
    if update_goldens:
        for name in files.keys() - set(list_variants()):
            files[name].unlink()
        return
    assert files.keys() == set(list_variants())


@pytest.mark.parametrize("name", ["botnet_t3", "resnet50"])
def test_decay_leaves_out_norms_and_biases_alone(name):
    for line in described(name):
        path, shape, kind = line.split()
        if kind == "statistic":
            assert path.endswith(("/mean", "/var")), path
            continue
        in_norm = any(part.endswith("norm") for part in path.split("/"))
        is_bias = path.endswith("/bias")
        assert (kind == "no-decay") == (in_norm or is_bias), path
        assert ("x" not in shape) == (kind == "no-decay"), "what has one axis is not decayed"
