// What is in a file of weights, safetensors or GGUF: read where it lies in memory; nothing is unpacked or copied.
import { BLOCK_BYTES } from "./products.js";

/** Matrices, vectors, and everything else. @typedef {{tensors: Record<string, any>, metadata: any}} Contents */

const KINDS = { 0: "F32", 3: "Q4_1", 8: "Q8_0" }; // the numbers that GGML has for them

/** A matrix, or a vector as numbers. @param {Uint8Array} file @param {number[]} shape @param {number} start */
function tensor(file, kind, shape, start) {
  const at = file.byteOffset + start;
  const stride = (shape[shape.length - 1] / 32) * BLOCK_BYTES[kind];
  const rows = shape.length > 1 ? shape[0] : 1;
  if (start + rows * stride > file.length) throw new RangeError();
  return shape.length > 1 ? { kind, shape, at, stride } : new Float32Array(file.buffer, at, shape[0]);
}

/** A safetensors file: the length of its head, the head in JSON, the numbers. @returns {Contents} */
export function readSafetensors(/** @type {Uint8Array} */ file) {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const { __metadata__, ...head } = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  /** @type {Contents} */
  const contents = { tensors: {}, metadata: {} };
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(head)) {
    const [start, end] = data_offsets.map((offset) => 8 + length + offset);
    if (dtype === "F32") contents.tensors[name] = tensor(file, "F32", shape, start);
    else contents.metadata[name] = Array.from(new BigInt64Array(file.slice(start, end).buffer), Number);
  }
  return contents;
}

/** A GGUF file: settings with a type each, the tensors' names and shapes, the numbers. @returns {Contents} */
export function readGGUF(/** @type {Uint8Array} */ file) {
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  let at = 8; // after "GGUF" and the version
  const next = (n) => (at += n) - n;
  const long = () => Number(view.getBigUint64(next(8), true));
  const int = () => view.getUint32(next(4), true);
  const string = () => {
    const length = long();
    if (at + length > file.length) throw new RangeError();
    return new TextDecoder().decode(file.subarray(next(length), at));
  };
  const array = () => {
    const read = readers[int()];
    const length = long();
    if (at + length > file.length) throw new RangeError();
    return Array.from({ length }, read);
  };
  const [byte, short, float] = [
    () => view.getUint8(next(1)),
    () => view.getUint16(next(2)),
    () => view.getFloat32(next(4), true),
  ];
  const double = () => view.getFloat64(next(8), true);
  // By the number of the type; the settings that are needed are whole and not below 0, floats, texts, and arrays.
  const readers = [byte, byte, short, short, int, int, float, byte, string, array, long, long, double];

  const [n_tensors, n_settings] = [long(), long()];
  /** @type {Contents} */
  const contents = { tensors: {}, metadata: {} };
  for (let i = 0; i < n_settings; i++) {
    const name = string();
    contents.metadata[name] = readers[int()]();
  }
  const heads = Array.from({ length: n_tensors }, () => {
    const name = string();
    const shape = Array.from({ length: int() }, long).reverse(); // (rows, columns)
    return { name, shape, kind: int(), offset: long() };
  });
  const start = Math.ceil(at / 32) * 32;
  for (const { name, shape, kind, offset } of heads) {
    if (!KINDS[kind]) throw new Error(`Its tensor ${name} is of GGML's type ${kind}; F32, Q4_1 and Q8_0 can be read.`);
    contents.tensors[name] = tensor(file, KINDS[kind], shape, start + offset);
  }
  return contents;
}
