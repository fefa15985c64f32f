// Writing text one token at a time, with and without the cache; and, on purpose, wrongly.
import { softmax } from "./transformer.js";

/** @typedef {"stale" | "standing" | "offset" | "twice" | "none" | null} Bug none: right, but watched as they are */
/** @typedef {{id: number, label: string, probability: number}} Candidate */
/** A key that attention found in layer 1: taken for position `at`, truly at `place`, null if of an earlier text.
 * @typedef {{label: string, at: number, place: number | null, mark: "n" | "c" | "r", visible: boolean}} Key */
/** One pass and the token that it chose; the numbers are those of this pass.
 * @typedef {{number: number, ids: number[], kept: number, computed: number, chosen: Candidate & {text: string},
 *   best: Candidate[], milliseconds: number, multiply_adds: number, cache_bytes: number, vectors?: string[],
 *   keys?: Key[], error?: number}} Step */
/** @typedef {{ids: number[], max_new_tokens: number, use_cache?: boolean, fresh?: boolean, temperature?: number,
 *   top_k?: number, seed?: number, n_best?: number, vectors?: boolean, bug?: Bug, way?: "wasm" | "plain",
 *   stop_ids?: number[], max_chunk?: number, earlier?: number[]}} Options */
/** @typedef {() => Promise<void> | void} Pause */

const BUGS = ["stale", "standing", "offset", "twice", "none"];

/** Read tokens after those that the cache holds, in chunks, and get the logits after the last.
 * @param {any} model @param {number[]} ids @param {import("./transformer.js").Cache} cache @param {Pause} pause
 * @param {number} max_chunk @param {Bug} bug */
export async function read(model, ids, cache, pause, max_chunk = 16, bug = null) {
  const { n_vocab, max_chunk: most } = model.cfg;
  const wrong = ids.find((id) => !(id >= 0 && id < n_vocab));
  if (wrong !== undefined) throw new Error(`Token id ${wrong} is outside the vocabulary, 0 to ${n_vocab - 1}.`);
  if (!ids.length) throw new Error("There is no token to read; type at least 1 character.");
  if (cache.n_tokens + ids.length > cache.max_tokens) {
    const full = `${cache.n_tokens} tokens in the cache and ${ids.length} more exceed ${cache.max_tokens}`;
    throw new Error(`The context is full: ${full}; shorten the text, or begin a new one.`);
  }
  const size = Math.max(1, Math.min(max_chunk, most));
  for (let at = 0; at < ids.length; at += size) await model.read(ids.slice(at, at + size), cache, pause, bug);
  return model.logits();
}

/** @param {any} model @param {import("./tokenizer.js").Tokenizer} tokenizer @param {Options} options
 * @param {Pause} pause @returns {AsyncGenerator<Step>} */
export async function* generate(model, tokenizer, options, pause) {
  const { max_new_tokens, use_cache = true, fresh = true, n_best = 5, bug = null, stop_ids = [] } = options;
  if (![null, ...BUGS].includes(bug)) throw new Error(`There is no bug "${bug}"; choose one of ${BUGS.join(", ")}.`);
  if (!(max_new_tokens >= 1)) throw new Error(`max_new_tokens is ${max_new_tokens}; ask for at least 1.`);
  const max_chunk = bug ? model.cfg.context_length : options.max_chunk;
  const cache = use_cache ? model.cache : model.aside;
  const choose = chooser(options);
  const textOf = tokenizer.reader();
  const text = [...options.ids];
  text.forEach(textOf);
  const watched = bug ? new Watched(tokenizer) : null;
  if (fresh || bug) cache.crop(0);
  if (bug === "stale") {
    // Another text was written first, and nobody empties the cache.
    for await (const _ of generate(model, tokenizer, { ids: options.earlier ?? [], max_new_tokens: 5 }, pause));
    watched?.note(cache.ids, 0, null);
  }
  for (let number = 1; number <= max_new_tokens; number++) {
    const started = performance.now();
    model.memory.multiply_adds = 0;
    if (!use_cache) cache.crop(0); // nothing is kept: the whole text is read again
    if (!bug) cache.crop(nCommon(cache.ids, text)); // what the cache has of this text is not read again
    const kept = cache.n_tokens;
    let given = text.slice(kept);
    if (bug === "twice" || (bug === "stale" && number === 1)) given = [...text];
    else if (bug === "stale") given = text.slice(-1);
    const logits = await read(model, given, cache, pause, max_chunk, bug);
    const { id, best } = choose(logits, n_best);
    const named = (each) => ({ ...each, label: tokenizer.label(each.id) });
    /** @type {Step} */
    const step = {
      number,
      ids: [...text],
      kept,
      computed: given.length,
      chosen: { ...named(best.find((each) => each.id === id)), text: textOf(id) },
      best: best.map(named),
      milliseconds: performance.now() - started,
      multiply_adds: model.memory.multiply_adds,
      cache_bytes: use_cache ? cache.n_bytes : 0,
    };
    if (options.vectors) step.vectors = model.blocks.map((_, layer) => base64(cache.vectors(layer)));
    if (watched) {
      step.keys = watched.note(given, bug === "standing" ? 0 : kept, text.length - given.length);
      if (bug === "offset") step.keys.forEach((key, i) => (key.visible = i < given.length));
      model.aside.crop(0);
      const right = await read(model, text, model.aside, pause);
      step.error = right.reduce((most, logit, i) => Math.max(most, Math.abs(logit - logits[i])), 0);
    }
    yield step;
    text.push(id);
    if (stop_ids.includes(id)) return;
  }
}

/** How many tokens of the text the cache holds; at least its last one must be read for new logits. */
export function nCommon(cached, text) {
  let n = 0;
  while (n < text.length - 1 && cached[n] === text[n]) n++;
  return n;
}

/** The way to choose the next token: the most likely one, or a draw from softmax(logits / temperature).
 * @param {Partial<Options>} options */
function chooser({ temperature = 0, top_k, seed = 0 }) {
  if (!(temperature >= 0)) throw new Error(`The temperature is ${temperature}; choose 0 or more.`);
  let state = seed;
  /** mulberry32, a small generator: numbers from 0 to 1, all equally likely. */
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return (/** @type {Float32Array} */ logits, /** @type {number} */ n_best) => {
    const best = highest(logits, Math.max(1, n_best));
    let id = best[0];
    if (temperature > 0) {
      const among = top_k ? highest(logits, top_k) : Array.from(logits.keys());
      const shares = Float64Array.from(among, (each) => logits[each]);
      softmax(shares, 1 / temperature);
      let left = random();
      const drawn = shares.findIndex((share) => (left -= share) < 0);
      id = among[Math.max(0, drawn)];
      if (!best.includes(id)) best[best.length - 1] = id;
    }
    const sum = sumOfExp(logits);
    return { id, best: best.map((each) => ({ id: each, probability: Math.exp(logits[each]) / sum })) };
  };
}

/** Equal neighbours, as the logits of tokens that were never learned, cost one exp. Logits are far below 700. */
function sumOfExp(logits) {
  let [sum, before, exp] = [0, 0, 1];
  for (const logit of logits) {
    if (logit !== before) [before, exp] = [logit, Math.exp(logit)];
    sum += exp;
  }
  return sum;
}

/** The ids of the n highest logits, the highest first. @param {Float32Array} logits @param {number} n */
function highest(logits, n) {
  const best = /** @type {number[]} */ ([]);
  for (let id = 0; id < logits.length; id++) {
    if (best.length === n && logits[id] <= logits[best[n - 1]]) continue;
    let place = best.length;
    while (place > 0 && logits[id] > logits[best[place - 1]]) place--;
    best.splice(place, 0, id);
    best.length = Math.min(best.length, n);
  }
  return best;
}

/** The keys that attention finds, as break_it.py tells them. */
class Watched {
  /** @param {import("./tokenizer.js").Tokenizer} tokenizer */
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.keys = /** @type {Key[]} */ ([]);
    this.seen = new Set();
  }
  /** All keys after a pass over some tokens, taken for positions from `at` on, truly from `place` on. */
  note(given, at, place) {
    this.keys = this.keys.map((key) => ({ ...key, mark: /** @type {const} */ ("r") }));
    given.forEach((id, i) => {
      const here = place === null ? null : place + i;
      /** @type {"c" | "n"} */
      const mark = this.seen.has(here) ? "c" : "n";
      if (here !== null) this.seen.add(here);
      this.keys.push({ label: this.tokenizer.label(id), at: at + i, place: here, mark, visible: true });
    });
    return this.keys;
  }
}

/** @param {Float32Array} numbers */
function base64(numbers) {
  let text = "";
  for (const byte of new Uint8Array(numbers.buffer)) text += String.fromCharCode(byte);
  return btoa(text);
}
