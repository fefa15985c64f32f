// A transformer with a cache. The GPT of baseline.py and cached.py and the Llama of llama.py share one class, and
// differ in embedding, norm, positions and feed-forward.
//
// Shapes are written in the book's alphabet: n tokens, emb_dim, n_heads, head_dim; kv_dim = n_kv_heads * head_dim.
import { Memory } from "./products.js";

/** max_chunk: tokens of a pass; max_aside: of a text that is read without a cache.
 * @typedef {{n_vocab: number, context_length: number, emb_dim: number, n_heads: number, n_kv_heads: number,
 *   n_layers: number, hidden_dim: number, norm_eps: number, rope_base: number, max_chunk: number,
 *   max_aside: number}} Config */

/** The keys and values of every token that was read, for every layer, and the tokens themselves. */
export class Cache {
  /** @param {Memory} memory @param {Config} cfg @param {number} max_tokens */
  constructor(memory, { n_layers, n_heads, n_kv_heads, emb_dim }, max_tokens) {
    this.max_tokens = max_tokens;
    this.kv_dim = (n_kv_heads * emb_dim) / n_heads;
    const room = () => memory.floats(max_tokens * this.kv_dim);
    this.keys = Array.from({ length: n_layers }, room); // each (max_tokens, kv_dim)
    this.values = Array.from({ length: n_layers }, room);
    this.ids = /** @type {number[]} */ ([]);
  }
  get n_tokens() {
    return this.ids.length;
  }
  get n_bytes() {
    return 2 * 4 * this.keys.length * this.n_tokens * this.kv_dim;
  }
  /** Forget all but the first tokens. @param {number} n_tokens */
  crop(n_tokens) {
    this.ids.length = Math.min(n_tokens, this.n_tokens);
  }
  /** The keys, then the values of a layer as Python's trace has them: (2, n_tokens, kv_dim). @param {number} layer */
  vectors(layer) {
    const size = this.n_tokens * this.kv_dim;
    const both = new Float32Array(2 * size);
    both.set(this.keys[layer].subarray(0, size));
    both.set(this.values[layer].subarray(0, size), size);
    return both;
  }
}

/** How many bytes a model takes beside its weights. @param {Config} cfg */
export function bytesFor({ emb_dim, n_heads, n_kv_heads, ...cfg }) {
  const n_tokens = cfg.context_length + cfg.max_aside;
  const kept = (2 * cfg.n_layers * n_tokens * emb_dim * n_kv_heads) / n_heads;
  const pass = cfg.max_chunk * (5 * emb_dim + 2 * cfg.hidden_dim) + n_heads * cfg.context_length + cfg.n_vocab;
  return 4 * (kept + pass) + 32 * (4 * cfg.n_layers + 20);
}

/** Parts of the book's names of tensors and of those in a GGUF file, in this order. */
const LLAMA_NAMES = [
  ["trf_blocks.", "blk."],
  ["att.W_query", "attn_q"],
  ["att.W_key", "attn_k"],
  ["att.W_value", "attn_v"],
  ["att.out_proj", "attn_output"],
  ["norm1.scale", "attn_norm.weight"],
  ["norm2.scale", "ffn_norm.weight"],
  ["final_norm.scale", "output_norm.weight"],
  ["ff.", "ffn_"],
  ["tok_emb", "token_embd"],
];

/** The GPT of the book. It has embeddings for the tokens that it has learned; those of all others are zero. */
export class GPT {
  /** @param {Memory} memory @param {Config} cfg @param {import("./files.js").Contents} contents */
  constructor(memory, cfg, { tensors, metadata }) {
    this.memory = memory;
    this.cfg = cfg;
    this.head_dim = cfg.emb_dim / cfg.n_heads;
    this.group = cfg.n_heads / cfg.n_kv_heads; // query heads that share a key
    this.tensors = this.named(tensors);
    this.blocks = Array.from({ length: cfg.n_layers }, (_, layer) => inside(this.tensors, `trf_blocks.${layer}.`));
    /** Which row of the embeddings is a token's. @type {Map<number, number>} */
    this.known = new Map(metadata.known_tokens?.map((id, row) => [id, row]));
    // Room for what a pass computes, each (max_chunk, emb_dim) or as said.
    const room = (size = cfg.emb_dim) => memory.floats(cfg.max_chunk * size);
    this.x = room();
    this.normed = room();
    this.queries = room();
    this.context = room();
    this.result = room();
    this.hidden = room(cfg.hidden_dim);
    this.gate = room(cfg.hidden_dim);
    this.scores = memory.floats(this.group * cfg.context_length); // (group, n_seen)
    this.logits_of_rows = memory.floats(this.tensors["tok_emb.weight"].shape[0]);
    this.cache = new Cache(memory, cfg, cfg.context_length);
    this.aside = new Cache(memory, cfg, cfg.max_aside); // of passes that keep nothing
    this.n_read = 0; // tokens of the newest pass
  }

  /**
   * Read some tokens, at most max_chunk, after those that the cache holds; it holds them, too, afterwards.
   * @param {number[]} token_ids @param {Cache} cache @param {() => Promise<void> | void} pause called after each layer
   * @param {string | null} bug what goes wrong on purpose
   */
  async read(token_ids, cache, pause, bug = null) {
    const { memory, cfg, x, normed, queries, context, result } = this;
    const n = token_ids.length;
    const n_past = cache.n_tokens;
    const start = bug === "standing" ? 0 : n_past;
    token_ids.forEach((id, t) => x.set(this.embedding(id, start + t), t * cfg.emb_dim));
    for (const [layer, block] of this.blocks.entries()) {
      const keys = cache.keys[layer].subarray(n_past * cache.kv_dim); // (n, kv_dim), where the cache wants them
      const values = cache.values[layer].subarray(n_past * cache.kv_dim);
      this.norm(x, n, block["norm1.scale"], block["norm1.shift"]);
      memory.product(block["att.W_query.weight"], normed, n, queries); // (n, emb_dim)
      memory.product(block["att.W_key.weight"], normed, n, keys);
      memory.product(block["att.W_value.weight"], normed, n, values);
      this.turn(queries, n, cfg.n_heads, start);
      this.turn(keys, n, cfg.n_kv_heads, start);
      for (let t = 0; t < n; t++) {
        // The causal mask: these keys a query may see.
        const n_seen = 1 + t + (bug === "offset" ? 0 : n_past);
        this.attend(t, n_seen, cache.keys[layer], cache.values[layer]);
      }
      memory.product(block["att.out_proj.weight"], context, n, result);
      add(x, result, n * cfg.emb_dim, block["att.out_proj.bias"]);
      this.norm(x, n, block["norm2.scale"], block["norm2.shift"]);
      this.feedForward(block, n);
      add(x, result, n * cfg.emb_dim, block["ff.layers.2.bias"]);
      await pause();
    }
    cache.ids.push(...token_ids);
    this.n_read = n;
  }

  /** softmax(Q K^T / sqrt(head_dim)) V for each head of token t: context (emb_dim), the heads side by side. */
  attend(t, n_seen, keys, values) {
    const { memory, cfg, group, head_dim, queries, context, scores } = this;
    const stride = 4 * cfg.n_kv_heads * head_dim;
    for (let kv_head = 0; kv_head < cfg.n_kv_heads; kv_head++) {
      const seen = (of) => ({ shape: [n_seen, head_dim], at: of.byteOffset + 4 * kv_head * head_dim, stride });
      const first = t * cfg.emb_dim + kv_head * group * head_dim;
      memory.product({ kind: "F32", ...seen(keys) }, queries.subarray(first), group, scores); // (group, n_seen)
      for (let h = 0; h < group; h++) {
        const weights = scores.subarray(h * n_seen, (h + 1) * n_seen);
        softmax(weights, 1 / Math.sqrt(head_dim));
        memory.mix(weights, seen(values), context.subarray(first + h * head_dim));
      }
    }
  }

  /** A score for every possible next token, after the newest token that was read: (n_vocab). */
  logits() {
    const { "final_norm.scale": scale, "final_norm.shift": shift } = this.tensors;
    this.norm(this.x.subarray((this.n_read - 1) * this.cfg.emb_dim), 1, scale, shift);
    this.memory.product(this.tensors["tok_emb.weight"], this.normed, 1, this.logits_of_rows);
    if (!this.known.size) return this.logits_of_rows.slice();
    const logits = new Float32Array(this.cfg.n_vocab); // 0 for a token that was never learned
    for (const [id, row] of this.known) logits[id] = this.logits_of_rows[row];
    return logits;
  }

  // From here on, what the Llama does otherwise.

  /** Tensors by the book's names. */
  named(tensors) {
    return tensors;
  }

  embedding(id, position) {
    const row = this.known.get(id);
    const sum = this.memory.row(this.tensors["pos_emb.weight"], position);
    if (row !== undefined) add(sum, this.memory.row(this.tensors["tok_emb.weight"], row), sum.length);
    return sum;
  }

  /** LayerNorm: mean 0 and variance 1, then scaled and shifted. */
  norm(x, n, scale, shift) {
    const size = scale.length;
    for (let at = 0; at < n * size; at += size) {
      let mean = 0;
      for (let i = 0; i < size; i++) mean += x[at + i] / size;
      let variance = 0;
      for (let i = 0; i < size; i++) variance += (x[at + i] - mean) ** 2 / size;
      const by = 1 / Math.sqrt(variance + this.cfg.norm_eps);
      for (let i = 0; i < size; i++) this.normed[at + i] = (x[at + i] - mean) * by * scale[i] + shift[i];
    }
  }

  /** Nothing to turn: positions were added. */
  turn(x, n, n_heads, start) {}

  feedForward(block, n) {
    const { memory, normed, hidden, result } = this;
    memory.product(block["ff.layers.0.weight"], normed, n, hidden);
    const bias = block["ff.layers.0.bias"];
    for (let i = 0; i < n * bias.length; i++) hidden[i] = gelu(hidden[i] + bias[i % bias.length]);
    memory.product(block["ff.layers.2.weight"], hidden, n, result);
  }
}

/** A Llama: rotary positions, query heads that share keys, a gated feed-forward, and no bias. */
export class Llama extends GPT {
  named(tensors) {
    const ours = (name) => LLAMA_NAMES.reduce((so_far, [our, their]) => so_far.replace(their, our), name);
    return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [ours(name), tensor]));
  }

  embedding(id, position) {
    return this.memory.row(this.tensors["tok_emb.weight"], id);
  }

  /** RMSNorm: a mean square of 1, then scaled. */
  norm(x, n, scale, shift) {
    const size = scale.length;
    for (let at = 0; at < n * size; at += size) {
      let square = 0;
      for (let i = 0; i < size; i++) square += x[at + i] ** 2 / size;
      const by = 1 / Math.sqrt(square + this.cfg.norm_eps);
      for (let i = 0; i < size; i++) this.normed[at + i] = x[at + i] * by * scale[i];
    }
  }

  /** Turn each pair of numbers of each head by an angle that grows with the position (RoPE). The matrices of a GGUF file
   * give the two numbers of a pair side by side; afterwards they are half a head apart, as in llama.py. */
  turn(x, n, n_heads, start) {
    const half = this.head_dim / 2;
    for (let t = 0; t < n; t++) {
      const angles = Array.from({ length: half }, (_, i) => (start + t) * this.cfg.rope_base ** (-i / half));
      const cos = angles.map(Math.cos);
      const sin = angles.map(Math.sin);
      for (let at = t * n_heads * 2 * half; at < (t + 1) * n_heads * 2 * half; at += 2 * half) {
        const pairs = x.slice(at, at + 2 * half);
        for (let i = 0; i < half; i++) {
          x[at + i] = pairs[2 * i] * cos[i] - pairs[2 * i + 1] * sin[i];
          x[at + half + i] = pairs[2 * i + 1] * cos[i] + pairs[2 * i] * sin[i];
        }
      }
    }
  }

  /** SwiGLU. */
  feedForward(block, n) {
    const { memory, normed, hidden, gate, result } = this;
    memory.product(block["ff.gate.weight"], normed, n, gate);
    memory.product(block["ff.up.weight"], normed, n, hidden);
    for (let i = 0; i < n * this.cfg.hidden_dim; i++) hidden[i] *= gate[i] / (1 + Math.exp(-gate[i]));
    memory.product(block["ff.down.weight"], hidden, n, result);
  }
}

/** The tensors of one part, by the rest of their names. @returns {Record<string, any>} */
function inside(tensors, part) {
  const those = Object.entries(tensors).filter(([name]) => name.startsWith(part));
  return Object.fromEntries(those.map(([name, tensor]) => [name.slice(part.length), tensor]));
}

/** x + what was computed for the same tokens, and a bias, if there is one. */
function add(x, result, size, bias) {
  for (let i = 0; i < size; i++) x[i] += result[i] + (bias ? bias[i % bias.length] : 0);
}

/** GELU, in its form with tanh. */
function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** In place: numbers times a scale become shares that add up to 1. @param {Float32Array | Float64Array} x */
export function softmax(x, scale = 1) {
  let most = -Infinity;
  for (let i = 0; i < x.length; i++) most = Math.max(most, x[i]);
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp((x[i] - most) * scale);
  for (let i = 0; i < x.length; i++) x[i] /= sum;
}
