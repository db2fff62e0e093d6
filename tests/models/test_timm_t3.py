"""The proof from outside: T3 computes what timm's independent implementation computes."""

import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.benchmarking.timm_networks import timm_network
from bottleneck_transformer_flax.checkpoints.rules.conversion import to_ours
from bottleneck_transformer_flax.checkpoints.rules.timm import rules
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.cost import abstract_variables, count_parameters
from bottleneck_transformer_flax.models.variants import get_config
from reference.timm_models import randomize

IMAGE_SIZE = 64


def test_t3_gives_the_logits_of_timm(record_property):
    config = get_config("botnet_t3")
    # timm's parts are put together as the config says, so it must say what the paper does.
    assert (config.stage_sizes, config.stage_strides) == ((3, 4, 6, 6), (1, 2, 2, 1))
    assert [config.out_channels(stage) for stage in range(4)] == [256, 512, 1024, 2048]
    assert (config.num_heads, config.head_dim) == (4, 128)
    assert (config.se_ratio, config.activation) == (1 / 16, "silu")
    network = timm_network(config, (IMAGE_SIZE, IMAGE_SIZE))
    randomize(network, seed=0)
    state = {
        name.replace(".shortcut.inner.", ".shortcut."): tensor.numpy()
        for name, tensor in network.state_dict().items()
        if "num_batches" not in name
    }
    model = BoTNet(config=config)
    shapes = flatten_dict(abstract_variables(model, (IMAGE_SIZE, IMAGE_SIZE)), sep=".")
    variables = unflatten_dict(to_ours(list(rules(model.config)), state, shapes), sep=".")

    images = np.random.default_rng(0).normal(size=(2, IMAGE_SIZE, IMAGE_SIZE, 3))
    images = images.astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = np.asarray(jax.jit(model.apply)(variables, images))

    difference = float(np.abs(logits - expected).max())
    record_property("largest_difference", difference)
    print(f"largest difference of T3's logits from timm's: {difference:.2e}")
    assert 0.1 < expected.std() < 100
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_timm_counts_the_parameters_of_t3_and_t6():
    for name, size in (("botnet_t3", 224), ("botnet_t6", 320)):
        config = get_config(name)
        network = timm_network(config, (size, size))
        theirs = sum(parameter.numel() for parameter in network.parameters())
        assert theirs == count_parameters(abstract_variables(BoTNet(config=config), (size, size)))
