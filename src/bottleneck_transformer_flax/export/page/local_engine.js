// The engine that runs the model in this page, by onnxruntime-web (`ort`). The WebAssembly and the
// model are in the page, or in scripts beside it, as gzip in base64.

async function inflate(texts) {
  const parts = texts.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function createEngine() {
  ort.env.wasm.wasmBinary = await inflate(embedded("wasm"));
  ort.env.wasm.numThreads = 1;
  const model = await inflate(embedded("model"));
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return async function run(pixels) {
    const data = new Uint8Array(pixels.data.buffer);
    const images = new ort.Tensor("uint8", data, [1, pixels.height, pixels.width, 3]);
    const found = await session.run({ images });
    return Object.fromEntries(
      Object.entries(found).map(([name, tensor]) => [name, { data: tensor.data, dims: tensor.dims }]),
    );
  };
}

// The texts of all elements that hold a part of something, in order.
function embedded(name) {
  return (globalThis.botnetParts?.[name] ?? []).concat(
    [...document.querySelectorAll(`script[data-part="${name}"]`)].map((one) => one.textContent),
  );
}
