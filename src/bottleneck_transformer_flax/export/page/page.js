// The page: choosing a photo, its likeliest classes, and the attention under the pointer.

const { classes, preprocessing, blocks, samples } = JSON.parse(
  document.getElementById("description").textContent,
);
const MOST_CLASSES = 5;
const DISPLAYED_SIDE = 480;
// From dark to bright, as matplotlib's "inferno".
const HEAT = [
  [0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99],
  [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164],
];

const $ = (id) => document.getElementById(id);
const state = { run: null, photo: null, outputs: null, block: blocks.at(-1), position: null };

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

// ---- from a file to a prediction

async function decode(blob) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(blob, options);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const rgb = new Uint8ClampedArray((data.length / 4) * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return { canvas, image: { width: canvas.width, height: canvas.height, data: rgb } };
}

async function classify(blob, name) {
  let decoded;
  say(`Reading ${name} …`);
  try {
    decoded = await decode(blob);
  } catch {
    say(`${name} cannot be read as an image; choose a JPEG, PNG or WebP file.`, true);
    return;
  }
  try {
    const started = performance.now();
    const outputs = await state.run(preprocess(decoded.image, preprocessing));
    const milliseconds = Math.round(performance.now() - started);
    state.outputs = outputs;
    state.photo = visiblePart(decoded);
    state.position = null;
    say(`${name}: classified in ${milliseconds} ms. The photo has not left this device.`);
  } catch (error) {
    say(`${name} cannot be classified: ${error.message ?? error}`, true);
    return;
  }
  $("result").hidden = false;
  showClasses();
  showAttention();
}

// What the model sees of a photo, as a canvas of a size to look at.
function visiblePart({ canvas, image }) {
  const [left, top, right, bottom] = centreBox(image, preprocessing).box;
  const [height, width] = preprocessing.size;
  const scale = DISPLAYED_SIDE / Math.max(height, width);
  const part = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
  const context = part.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(
    canvas, left, top, right - left, bottom - top, 0, 0, part.width, part.height,
  );
  return part;
}

function showClasses() {
  const { data } = state.outputs.probabilities;
  const order = [...data.keys()].sort((a, b) => data[b] - data[a] || a - b);
  $("bars").replaceChildren(
    ...order.slice(0, MOST_CLASSES).map((index) => {
      const percent = (100 * data[index]).toFixed(2);
      const item = document.createElement("li");
      const label = document.createElement("div");
      label.className = "label";
      label.append(span("name", classes[index]), span("value", `${percent} %`));
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.style.width = `${percent}%`;
      item.dataset.probability = data[index];
      item.append(label, bar);
      return item;
    }),
  );
}

function span(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}

// ---- attention

function attentionOfBlock() {
  const { data, dims } = state.outputs[`attention_${state.block.replaceAll("/", "_")}`];
  const [, heads, rows, columns] = dims;
  return { data, heads, rows, columns };
}

function showAttention() {
  drawPhoto();
  $("attention").hidden = blocks.length === 0;
  if (!blocks.length) return;
  const { data, heads, rows, columns } = attentionOfBlock();
  state.position ??= [Math.floor(rows / 2), Math.floor(columns / 2)];
  const [row, column] = state.position.map(Number);
  const cells = rows * columns;
  const figures = [...$("heads").children];
  while (figures.length < heads) figures.push(newHead(figures.length));
  $("heads").replaceChildren(...figures.slice(0, heads));
  figures.slice(0, heads).forEach((figure, head) => {
    const begin = ((head * rows + row) * columns + column) * cells;
    drawHeat(figure.firstChild, data.subarray(begin, begin + cells), rows, columns);
  });
  drawMark($("photo"), rows, columns);
  $("photo").setAttribute("aria-label", `the photo; position ${row}, ${column}`);
}

function newHead(index) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = `head ${index + 1}`;
  figure.append(document.createElement("canvas"), caption);
  return figure;
}

function drawPhoto() {
  const canvas = $("photo");
  canvas.width = state.photo.width;
  canvas.height = state.photo.height;
  canvas.getContext("2d").drawImage(state.photo, 0, 0);
}

function drawHeat(canvas, weights, rows, columns) {
  const most = Math.max(...weights);
  const least = Math.min(...weights);
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  weights.forEach((weight, index) => {
    const color = heat((weight - least) / (most - least || 1));
    pixels.data.set([...color, 255], index * 4);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = state.photo.width;
  canvas.height = state.photo.height;
  const context = canvas.getContext("2d");
  context.filter = "grayscale(1)";
  context.drawImage(state.photo, 0, 0);
  context.filter = "none";
  context.globalAlpha = 0.65;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  drawMark(canvas, rows, columns);
}

function heat(value) {
  const at = Math.min(value * (HEAT.length - 1), HEAT.length - 1.001);
  const below = Math.floor(at);
  return HEAT[below].map((channel, index) =>
    channel + (HEAT[below + 1][index] - channel) * (at - below));
}

function drawMark(canvas, rows, columns) {
  const context = canvas.getContext("2d");
  const [row, column] = state.position;
  const height = canvas.height / rows;
  const width = canvas.width / columns;
  for (const [color, line] of [["rgb(0 0 0 / 60%)", 5], ["#00e5ff", 2.5]]) {
    context.strokeStyle = color;
    context.lineWidth = line;
    context.strokeRect(column * width, row * height, width, height);
  }
}

function moveTo(row, column) {
  const { rows, columns } = attentionOfBlock();
  const within = (value, count) => Math.max(0, Math.min(count - 1, value));
  state.position = [within(row, rows), within(column, columns)];
  showAttention();
}

function pointAt(event) {
  if (!state.outputs || !blocks.length) return;
  const box = $("photo").getBoundingClientRect();
  const { rows, columns } = attentionOfBlock();
  moveTo(
    Math.floor(((event.clientY - box.top) / box.height) * rows),
    Math.floor(((event.clientX - box.left) / box.width) * columns),
  );
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function chooseBlock(name) {
  const before = attentionOfBlock();
  state.block = name;
  const after = attentionOfBlock();
  const [row, column] = state.position;
  moveTo(
    Math.floor(((row + 0.5) * after.rows) / before.rows),
    Math.floor(((column + 0.5) * after.columns) / before.columns),
  );
}

// ---- what a user does

function classifyFirst(files) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (file) classify(file, file.name || "the photo");
}

async function openCamera() {
  const video = $("camera").querySelector("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`, true);
    return;
  }
  $("camera").showModal();
}

function closeCamera() {
  const video = $("camera").querySelector("video");
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  $("camera").close();
}

async function takePhoto() {
  const video = $("camera").querySelector("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await canvas.convertToBlob();
  closeCamera();
  classify(blob, "the photo");
}

function listen() {
  $("file").addEventListener("change", ({ target }) => {
    classifyFirst(target.files);
    target.value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("chooser").classList.add("over");
  });
  addEventListener("dragleave", () => $("chooser").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("chooser").classList.remove("over");
    classifyFirst(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => classifyFirst(event.clipboardData.files));
  $("photo").addEventListener("pointermove", pointAt);
  $("photo").addEventListener("pointerdown", pointAt);
  $("photo").addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS) || !state.position) return;
    event.preventDefault();
    moveTo(...state.position.map((value, axis) => value + ARROWS[event.key][axis]));
  });
  $("block").append(...blocks.map((name) => new Option(name, name, false, name === state.block)));
  $("block").addEventListener("change", ({ target }) => chooseBlock(target.value));
  $("open-camera").hidden = !navigator.mediaDevices?.getUserMedia;
  $("open-camera").addEventListener("click", openCamera);
  $("close-camera").addEventListener("click", closeCamera);
  $("take").addEventListener("click", takePhoto);
  $("samples").append(
    ...samples.map(({ name, source }) => {
      const button = document.createElement("button");
      const image = new Image();
      image.src = source;
      image.alt = name;
      button.type = "button";
      button.append(image);
      button.addEventListener("click", async () =>
        classify(await (await fetch(source)).blob(), name));
      return button;
    }),
  );
}

async function start() {
  $("result").hidden = true;
  if (!blocks.length) $("how").textContent = "";
  try {
    state.run = await createEngine();
  } catch (error) {
    say(`The model cannot be loaded: ${error.message ?? error}`, true);
    return;
  }
  listen();
  say("Ready.");
  document.documentElement.dataset.ready = "";
}

start();
