"""What a network of PyTorch computes, and what the model that it was converted to computes."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.conversion.mapping import to_torch


def relative(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def torch_outputs(network, stages, images, labels):
    """Logits, features of these parts, gradient of the images, gradients of the parameters."""
    features = []
    hooks = [
        stage.register_forward_hook(lambda module, inputs, output: features.append(output))
        for stage in stages
    ]
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2)).requires_grad_()
    logits = network(pixels)
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    for hook in hooks:
        hook.remove()
    return (
        logits.detach().numpy(),
        [feature.detach().numpy().transpose(0, 2, 3, 1) for feature in features],
        pixels.grad.numpy().transpose(0, 2, 3, 1),
        {name: value.grad.numpy() for name, value in network.named_parameters()},
    )


def logits_and_features(model, variables, images):
    """Logits, and the features of the four stages."""

    def outputs(variables, images):
        logits = model.apply(variables, images)
        return logits, model.apply(variables, images, method="feature_maps")

    logits, features = jax.device_get(jax.jit(outputs)(variables, images))
    return logits, list(features.values())


def gradients(model, variables, images, labels, mapping):
    """Gradients of the cross-entropy: of the images, and of their parameters by their names."""

    def loss(params, images):
        log_probabilities = jax.nn.log_softmax(model.apply(variables | {"params": params}, images))
        return -jnp.mean(log_probabilities[jnp.arange(len(labels)), jnp.asarray(labels)])

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
    of_params, of_images = jax.device_get(compiled(variables["params"], jnp.asarray(images)))
    ours = flatten_dict({"params": of_params}, sep=".")
    trained = [mapped for mapped in mapping if mapped.flax_names[0] in ours]
    return of_images, to_torch(trained, ours)
