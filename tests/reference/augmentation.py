"""Changes of images in slow, obvious loops: on RGB arrays (h, w, 3), or batches (b, h, w, c)."""

import math

import numpy as np

GREY = 128


def sampled(pixels, source):
    """Each pixel is the bilinear value at ``source(x, y)``, grey where that is outside.

    The centre of the first pixel is (0.5, 0.5); beyond the centres of the outermost pixels
    their values continue.
    """
    height, width, _ = pixels.shape
    output = np.full(pixels.shape, GREY, np.float64)
    for i, j in np.ndindex(height, width):
        x, y = source(j + 0.5, i + 0.5)
        if not (0 <= x < width and 0 <= y < height):
            continue
        x, y = x - 0.5, y - 0.5
        left, top = math.floor(x), math.floor(y)
        value = np.zeros(3)
        for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
            for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
                inside = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                value += row_weight * column_weight * pixels[inside]
        output[i, j] = value
    return output


def rotated(pixels, degrees):
    """Counter-clockwise about the centre, as seen with rows downwards."""
    height, width, _ = pixels.shape
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def source(x, y):
        right, down = x - width / 2, y - height / 2
        return width / 2 + cosine * right - sine * down, height / 2 + sine * right + cosine * down

    return sampled(pixels, source)


def scaled_distance(pixels, degenerate, factor):
    """From ``degenerate`` through the image and beyond, cut off at [0, 255]."""
    distance = pixels.astype(np.float64) - degenerate
    return np.clip(degenerate + factor * distance, 0, 255)


def grey(pixels):
    """Luma of ITU-R BT.601, three times."""
    return (pixels @ np.array([0.299, 0.587, 0.114]))[..., None].repeat(3, -1)


def smoothed(pixels):
    """3×3 weights of 1 and 5 in the middle; the border stays."""
    height, width, _ = pixels.shape
    weights = np.ones((3, 3, 1))
    weights[1, 1] = 5
    output = pixels.astype(np.float64)
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            patch = pixels[i - 1 : i + 2, j - 1 : j + 2]
            output[i, j] = (weights * patch).sum(axis=(0, 1)) / 13
    return output


def stretched(pixels):
    """Each channel linearly to [0, 255]; a constant one stays."""
    output = pixels.astype(np.float64)
    for channel in range(3):
        values = pixels[..., channel].astype(np.float64)
        low, high = values.min(), values.max()
        if high > low:
            output[..., channel] = (values - low) * 255 / (high - low)
    return output


def equalized(pixels):
    """Each value becomes the number of darker ones in units of (all but the brightest) // 255."""
    output = pixels.copy()
    for channel in range(3):
        values = pixels[..., channel]
        unit = (values < values.max()).sum() // 255
        if unit:
            for i, j in np.ndindex(values.shape):
                darker = (values < values[i, j]).sum()
                output[i, j, channel] = min(255, (darker + unit // 2) // unit)
    return output


def erased(images, boxes, noise):
    """Noise inside each image's (top, left, bottom, right)."""
    output = images.copy()
    for image, (top, left, bottom, right) in enumerate(boxes):
        for i in range(top, bottom):
            for j in range(left, right):
                output[image, i, j] = noise[image, i, j]
    return output


def mixed(images, targets, valid, own):
    """With the batch in reverse order, of pairs that are both valid.

    ``own`` (h, w) weighs an image itself at each pixel, and its mean the target.
    """
    images_out, targets_out = images.copy(), targets.copy()
    for image in range(len(images)):
        partner = len(images) - 1 - image
        if valid[image] and valid[partner]:
            for i, j in np.ndindex(own.shape):
                both = images[image, i, j], images[partner, i, j]
                images_out[image, i, j] = own[i, j] * both[0] + (1 - own[i, j]) * both[1]
            share = own.mean()
            targets_out[image] = share * targets[image] + (1 - share) * targets[partner]
    return images_out, targets_out
