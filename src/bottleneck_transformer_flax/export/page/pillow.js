// Resampling of 8-bit RGB as Pillow does it, with the same rounding, and the centre crop that
// evaluation takes. An image is {width, height, data}, with three bytes a pixel.

const PRECISION = 2 ** 22;

const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [
    2,
    (x) => {
      const a = -0.5;
      x = Math.abs(x);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  ],
  lanczos: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function sinc(x) {
  if (x === 0) return 1;
  x *= Math.PI;
  return Math.sin(x) / x;
}

// For each output position: the first input position and the integer weights from there on.
function weightsFor(inputSize, start, end, outputSize, [support, filter]) {
  // Pillow holds the box in float32.
  const scale = Math.fround(end - start) / outputSize;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  const inverse = 1 / stretch;
  return Array.from({ length: outputSize }, (_, position) => {
    const center = start + (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(inputSize, Math.trunc(center + reach + 0.5));
    const weights = [];
    let total = 0;
    for (let input = first; input < last; input++) {
      const weight = filter((input - center + 0.5) * inverse);
      weights.push(weight);
      total += weight;
    }
    const integers = weights.map((weight) => {
      const scaled = (total ? weight / total : weight) * PRECISION;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, weights: Int32Array.from(integers) };
  });
}

// One pass along an axis; `step` and `across` are the strides of the pixels in bytes.
function resampleAxis(image, weights, horizontal) {
  const width = horizontal ? weights.length : image.width;
  const height = horizontal ? image.height : weights.length;
  const data = new Uint8ClampedArray(width * height * 3);
  const stride = (horizontal ? 1 : image.width) * 3;
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const { first, weights: row } = weights[horizontal ? x : y];
      const begin = (horizontal ? y * image.width + first : first * image.width + x) * 3;
      for (let channel = 0; channel < 3; channel++, out++) {
        let sum = PRECISION / 2;
        for (let index = 0, at = begin + channel; index < row.length; index++, at += stride) {
          sum += image.data[at] * row[index];
        }
        data[out] = Math.floor(sum / PRECISION);
      }
    }
  }
  return { width, height, data };
}

function nearest(image, width, height, [left, top, right, bottom]) {
  const columns = nearestPositions(left, Math.fround(right - left) / width, width);
  const rows = nearestPositions(top, Math.fround(bottom - top) / height, height);
  const data = new Uint8ClampedArray(width * height * 3);
  let out = 0;
  for (const row of rows) {
    for (const column of columns) {
      const at = (row * image.width + column) * 3;
      for (let channel = 0; channel < 3; channel++) data[out++] = image.data[at + channel];
    }
  }
  return { width, height, data };
}

function nearestPositions(start, step, count) {
  const positions = [];
  for (let index = 0, at = start + step * 0.5; index < count; index++, at += step) {
    positions.push(Math.floor(at));
  }
  return positions;
}

function resize(image, width, height, box, interpolation) {
  box = box.map(Math.fround);
  if (interpolation === "nearest") return nearest(image, width, height, box);
  const [left, top, right, bottom] = box;
  const filter = FILTERS[interpolation];
  const horizontal = (input) =>
    width === image.width && !left && right === width
      ? input
      : resampleAxis(input, weightsFor(image.width, left, right, width, filter), true);
  const vertical = (input) =>
    height === image.height && !top && bottom === height
      ? input
      : resampleAxis(input, weightsFor(image.height, top, bottom, height, filter), false);
  // Each pass rounds, so their order matters: since Pillow 13, the height comes first where it
  // shrinks by more than twice as much as the width.
  const shrinks = image.height - height;
  return shrinks > 0 && shrinks > 2 * (image.width - width)
    ? horizontal(vertical(image))
    : vertical(horizontal(image));
}

// Python's round: halves go to the even neighbour.
function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

// The part of an image that the model sees, as [left, top, right, bottom] in the image's pixels,
// and whether it is cut out without resampling.
function centreBox(image, { size: [height, width], crop }) {
  const targetHeight = roundHalfEven(height / crop);
  const targetWidth = roundHalfEven(width / crop);
  const scale = Math.max(targetHeight / image.height, targetWidth / image.width);
  const resizedHeight = Math.max(targetHeight, roundHalfEven(image.height * scale));
  const resizedWidth = Math.max(targetWidth, roundHalfEven(image.width * scale));
  const top = Math.floor((resizedHeight - height) / 2);
  const left = Math.floor((resizedWidth - width) / 2);
  const across = image.width / resizedWidth;
  const down = image.height / resizedHeight;
  return {
    box: [left * across, top * down, (left + width) * across, (top + height) * down],
    cut: resizedHeight === image.height && resizedWidth === image.width,
  };
}

// The model's input: three bytes a pixel, rows from the top.
function preprocess(image, preprocessing) {
  const [height, width] = preprocessing.size;
  const { box, cut } = centreBox(image, preprocessing);
  if (!cut) return resize(image, width, height, box, preprocessing.interpolation);
  const [left, top] = box;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    const begin = ((top + y) * image.width + left) * 3;
    data.set(image.data.subarray(begin, begin + width * 3), y * width * 3);
  }
  return { width, height, data };
}
