"""Convolution, pools, norm and channel gate in slow, obvious float64 loops."""

import math

import numpy as np

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / np.sqrt(2))),
}


def convolve(x, kernel, stride):
    """k×k convolution, padded by k // 2 zeros on every side; in groups where c is a part.

    The kernel is (k, k, c, f): with g times as many input channels, each of g equal parts of the
    f outputs reads its own c of them.
    """
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size = kernel.shape[0]
    padded = pad(x, size // 2, 0.0)
    b, h, w, _ = x.shape
    out_h, out_w = ((side + 2 * (size // 2) - size) // stride + 1 for side in (h, w))
    output = np.zeros((b, out_h, out_w, kernel.shape[3]))
    for image, i, j in np.ndindex(b, out_h, out_w):
        top, left = i * stride, j * stride
        patch = padded[image, top : top + size, left : left + size]
        groups = x.shape[3] // kernel.shape[2]
        parts = zip(np.split(patch, groups, axis=2), np.split(kernel, groups, axis=3), strict=True)
        output[image, i, j] = np.concatenate([np.tensordot(*part, axes=3) for part in parts])
    return output


def max_pool(x):
    """3×3 at stride 2, padded by 1 with −inf on every side."""
    padded = pad(np.asarray(x, np.float64), 1, -np.inf)
    b, h, w, c = x.shape
    output = np.zeros((b, (h - 1) // 2 + 1, (w - 1) // 2 + 1, c))
    for image, i, j in np.ndindex(output.shape[:3]):
        patch = padded[image, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        output[image, i, j] = patch.max(axis=(0, 1))
    return output


def average_pool(x):
    """2×2 at stride 2; a window over the border is the mean of the positions that exist."""
    x = np.asarray(x, np.float64)
    b, h, w, c = x.shape
    output = np.zeros((b, math.ceil(h / 2), math.ceil(w / 2), c))
    for image, i, j in np.ndindex(output.shape[:3]):
        existing = [
            x[image, row, column]
            for row in (2 * i, 2 * i + 1)
            for column in (2 * j, 2 * j + 1)
            if row < h and column < w
        ]
        output[image, i, j] = sum(existing) / len(existing)
    return output


def batch_norm(x, parameters, statistics, epsilon=1e-5):
    """In inference: by the running statistics."""
    x = np.asarray(x, np.float64)
    mean, var = (np.asarray(statistics[name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(parameters[name], np.float64) for name in ("scale", "bias"))
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


def squeeze_excite(x, parameters, activation):
    """x · sigmoid(W_expand · activation(W_reduce · mean_hw(x)))."""
    x = np.asarray(x, np.float64)
    output = np.zeros(x.shape)
    for image in range(x.shape[0]):
        means = x[image].mean(axis=(0, 1))
        hidden = ACTIVATIONS[activation](dense(means, parameters["reduce"]))
        gate = 1 / (1 + np.exp(-dense(hidden, parameters["expand"])))
        output[image] = x[image] * gate
    return output


def efficient_channel_attention(x, parameters):
    """x · sigmoid of a weighted sum over each channel's mean and its neighbours', zero outside."""
    kernel = np.asarray(parameters["neighbours"]["kernel"], np.float64)[:, 0, 0]
    reach = len(kernel) // 2
    output = np.zeros(x.shape)
    for image in range(x.shape[0]):
        means = np.asarray(x[image], np.float64).mean(axis=(0, 1))
        for channel in range(len(means)):
            around = [
                kernel[reach + offset] * means[channel + offset]
                for offset in range(-reach, reach + 1)
                if 0 <= channel + offset < len(means)
            ]
            gate = 1 / (1 + np.exp(-sum(around)))
            output[image, :, :, channel] = x[image, :, :, channel] * gate
    return output


def dense(x, parameters):
    kernel, bias = (np.asarray(parameters[name], np.float64) for name in ("kernel", "bias"))
    return x @ kernel + bias


def pad(x, width, value):
    widths = ((0, 0), (width, width), (width, width), (0, 0))
    return np.pad(x, widths, constant_values=value)
