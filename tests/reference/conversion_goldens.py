"""Write tests/goldens/conversion: what other projects' own code computes.

    cd tests && python -m reference.conversion_goldens DISTRIBUUUU

DISTRIBUUUU is a checkout of BIGBALLON/distribuuuu; einops, torch, torchvision and timm have to be
installed. The parameters are made from names and shapes (see ``golden_arrays``), so that a golden
file holds only those, the logits, and some values of every stage's features.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from reference.conversion_arrays import golden_arrays, golden_images, sampled
from reference.timm_networks import timm_model

GOLDENS = Path(__file__).parents[1] / "goldens/conversion"
# With the gain under which neither the images' differences nor their sum take over.
TIMM = {
    "botnet26t_256": 1.7,
    "sebotnet33ts_256": 2.2,
    "botnet50ts_256": 2.0,
    "eca_botnext26ts_256": 2.1,
}
DISTRIBUUUU_GAIN = 1.4
# The parts of distribuuuu's chain whose outputs are the stages'.
DISTRIBUUUU_STAGES = (4, 5, 6, 7)


def write_golden(name, network, stages, *, size, gain):
    """Run a network with parameters made from its names, and keep what comes out."""
    shapes = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if "num_batches" not in key
    }
    arrays = {key: torch.from_numpy(value) for key, value in golden_arrays(shapes, gain).items()}
    network.load_state_dict(arrays, strict=True)
    features = []
    for stage in stages:
        stage.register_forward_hook(lambda module, inputs, output: features.append(output))
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(golden_images(size).transpose(0, 3, 1, 2)))
    np.savez_compressed(
        GOLDENS / f"{name}.npz",
        shapes=np.array(json.dumps(shapes)),
        gain=np.array(gain),
        logits=logits.numpy(),
        features=np.stack([sampled(part.permute(0, 2, 3, 1).numpy()) for part in features]),
    )


def distribuuuu_botnet50(checkout):
    """Their model; what its code moves to a GPU stays where it is."""
    sys.path.insert(0, str(checkout))
    torch.Tensor.cuda = lambda tensor: tensor
    from distribuuuu.models.botnet import botnet50

    return botnet50()


if __name__ == "__main__":
    for variant, gain in TIMM.items():
        network = timm_model(variant)
        write_golden(variant, network, network.stages, size=256, gain=gain)
    network = distribuuuu_botnet50(Path(sys.argv[1]))
    stages = [network[index] for index in DISTRIBUUUU_STAGES]
    write_golden("distribuuuu_botnet50", network, stages, size=224, gain=DISTRIBUUUU_GAIN)
