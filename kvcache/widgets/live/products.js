// Where the numbers lie, and the two loops that take nearly all the time.
//
// One memory holds the file of the weights as it is, the cache and what a pass computes; places count bytes. Both
// loops are there as plain JavaScript to read, and as WebAssembly (products.wat) for four numbers at once.
import { KERNEL } from "./products_wasm.js";

/** A matrix of (rows, columns): its place, and the bytes from row to row.
 * @typedef {{kind: Kind, shape: number[], at: number, stride: number}} Matrix */
/** @typedef {keyof typeof BLOCK_BYTES} Kind */

/** Bytes of a block of 32 numbers. Q8_0: a scale (float16) and 32 bytes; Q4_1: a scale, the least number (float16) and
 * 32 half bytes. */
export const BLOCK_BYTES = { F32: 128, Q8_0: 34, Q4_1: 20 };
const CODES = { F32: 0, Q8_0: 1, Q4_1: 2 };
const PAGE = 65536;
const SUMS = 16 * 128; // bytes at the beginning, for the sums of the kernel: 128 vectors at once at most

/** What 16 bits are as a float16. @param {number} bits */
function half(bits) {
  const fraction = bits & 1023;
  const exponent = (bits >> 10) & 31;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
  return bits & 32768 ? -size : size;
}
const HALVES = Float32Array.from({ length: 65536 }, (_, bits) => half(bits));

export class Memory {
  /** @param {number} n_bytes all that will be taken from it; throws an Error if that is not to be had */
  constructor(n_bytes) {
    const initial = Math.ceil(n_bytes / PAGE) + 1;
    const binary = Uint8Array.from(atob(KERNEL), (char) => char.charCodeAt(0));
    const simd = typeof WebAssembly === "object" && WebAssembly.validate(binary);
    try {
      /** @type {any} */
      const memory = simd ? new WebAssembly.Memory({ initial }) : { buffer: new ArrayBuffer(initial * PAGE) };
      /** @type {any} */
      this.kernel = simd && new WebAssembly.Instance(new WebAssembly.Module(binary), { env: { memory } }).exports;
      this.buffer = memory.buffer;
    } catch (problem) {
      const size = `${Math.ceil(n_bytes / 1e6)} MB`;
      throw new Error(`There is not enough memory for ${size} (${problem}); close other tabs and try again.`);
    }
    this.way = this.kernel ? "wasm" : "plain";
    this.bytes = new Uint8Array(this.buffer);
    this.numbers = new Float32Array(this.buffer);
    this.used = SUMS;
    this.multiply_adds = 0;
  }

  /** Choose between WebAssembly and plain JavaScript. @param {"wasm" | "plain" | undefined} way */
  go(way) {
    if (way === "wasm" && !this.kernel) throw new Error('This browser has no WebAssembly with SIMD; use way: "plain".');
    this.way = way ?? (this.kernel ? "wasm" : "plain");
  }

  /** All that was taken may be taken again. */
  clear() {
    this.used = SUMS;
    return this;
  }

  /** The next n bytes. @param {number} n */
  take(n) {
    this.used += Math.ceil(n / 32) * 32;
    return this.bytes.subarray(this.used - Math.ceil(n / 32) * 32).subarray(0, n);
  }
  /** Room for n numbers. @param {number} n */
  floats(n) {
    return new Float32Array(this.buffer, this.take(4 * n).byteOffset, n);
  }

  /** n vectors x (n, columns) times each row: y (n, rows).
   * @param {Matrix} matrix @param {Float32Array} x @param {number} n @param {Float32Array} y */
  product({ kind, shape: [rows, columns], at, stride }, x, n, y) {
    this.multiply_adds += n * rows * columns;
    if (this.way === "wasm")
      this.kernel.product(CODES[kind], at, stride, rows, columns, x.byteOffset, n, y.byteOffset, 0);
    else product(this, kind, at, stride, rows, columns, x, n, y);
  }

  /** The sum of all rows (F32), each times its weight: y (columns).
   * @param {Float32Array} weights @param {Omit<Matrix, "kind">} matrix @param {Float32Array} y */
  mix(weights, { shape: [rows, columns], at, stride }, y) {
    this.multiply_adds += rows * columns;
    if (this.way === "wasm") this.kernel.mix(weights.byteOffset, at, stride, rows, columns, y.byteOffset);
    else mix(this.numbers, weights, at, stride, rows, columns, y);
  }

  /** One row of a matrix, as numbers. @param {Matrix} matrix @param {number} r */
  row({ kind, shape: [, columns], at, stride }, r) {
    const row = new Float64Array(columns);
    for (let column = 0; column < columns; column += 32)
      this.unpack(kind, at + r * stride, column, row.subarray(column, column + 32));
    return row;
  }

  /** Some numbers of a row, at most 32, from a column on where a block begins: as numbers, whatever their kind.
   * @param {Kind} kind @param {number} row where the row begins @param {Float64Array} into */
  unpack(kind, row, column, into) {
    const { bytes, numbers } = this;
    const at = row + (column / 32) * BLOCK_BYTES[kind];
    if (kind === "F32") {
      for (let i = 0; i < into.length; i++) into[i] = numbers[at / 4 + i];
      return;
    }
    const scale = HALVES[bytes[at] | (bytes[at + 1] << 8)];
    if (kind === "Q8_0") {
      for (let i = 0; i < 32; i++) into[i] = scale * ((bytes[at + 2 + i] << 24) >> 24);
      return;
    }
    const least = HALVES[bytes[at + 2] | (bytes[at + 3] << 8)];
    for (let i = 0; i < 16; i++) {
      into[i] = scale * (bytes[at + 4 + i] & 15) + least;
      into[i + 16] = scale * (bytes[at + 4 + i] >> 4) + least;
    }
  }
}

/** @param {Memory} memory @param {Kind} kind */
function product(memory, kind, at, stride, rows, columns, x, n, y) {
  const block = new Float64Array(Math.min(32, columns)); // a head of the small model has 16
  const sums = new Float64Array(n);
  for (let r = 0; r < rows; r++) {
    sums.fill(0);
    for (let column = 0; column < columns; column += 32) {
      memory.unpack(kind, at + r * stride, column, block);
      for (let t = 0, from = column; t < n; t++, from += columns) {
        let sum = 0;
        for (let i = 0; i < block.length; i++) sum += block[i] * x[from + i];
        sums[t] += sum;
      }
    }
    for (let t = 0; t < n; t++) y[t * rows + r] = sums[t];
  }
}

function mix(numbers, weights, at, stride, rows, columns, y) {
  y.fill(0, 0, columns);
  for (let r = 0; r < rows; r++)
    for (let i = 0, from = (at + r * stride) / 4; i < columns; i++) y[i] += weights[r] * numbers[from + i];
}
