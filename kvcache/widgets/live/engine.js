// What a page asks of the live engine: it starts the worker with the model, and speaks to it.

/** @typedef {import("./generate.js").Step} Step */
/** @typedef {Partial<import("./generate.js").Options> & {text?: string}} Options ids or a text, and how to go on */
/** @typedef {{name: string, n_layers: number, n_vocab: number, context_length: number, emb_dim: number,
 *   n_heads: number, n_kv_heads: number, way: "wasm" | "plain", weights_bytes: number, checked?: boolean}} Model
 * checked: whether the hash of a GGUF file could be checked */
/** @typedef {{id: number, label: string, text: string, known: boolean}} Token */

/** What the scripts of the built book have brought. @type {any} */
const live = /** @type {any} */ (globalThis.tffLive ??= {});

/** Have live.NAME, by one of the book's live files; as a script, so that it works from disk, too. */
async function bring(name, file = name) {
  live.coming ??= {};
  live.coming[name] ??= new Promise((resolve, reject) => {
    if (live[name]) return resolve(null);
    const script = document.createElement("script");
    script.src = new URL(`${liveFolder()}${file}.js`, document.baseURI).href;
    script.onload = resolve;
    script.onerror = () => {
      delete live.coming[name];
      script.remove();
      reject(new Error(`The page could not load ${script.src}; check the connection and try again.`));
    };
    document.head.append(script);
  });
  await live.coming[name];
  return live[name];
}

/** Where the live files of the built book are. */
export function liveFolder() {
  return `${document.documentElement.dataset.content_root ?? "./"}_static/live/`;
}

/** Start a worker. Rejects with an Error in words where that cannot be. */
export async function startEngine() {
  const worker = await bring("worker", "live");
  if (typeof Worker !== "function") throw new Error("This browser has no web workers; open the page in another one.");
  return new Engine(worker, live.smollm2);
}

export class Engine {
  /** @param {string} text of the worker @param {any} smollm2 */
  constructor(text, smollm2) {
    this.smollm2 = smollm2;
    /** @type {Model | null} */
    this.model = null;
    /** @type {Map<number, {take: (told: any) => void, fail: (error: Error) => void}>} */
    this.open = new Map();
    this.count = 0;
    /** @type {Error | null} */
    this.dead = null;
    const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    this.worker = new Worker(address);
    this.worker.onmessage = ({ data }) => {
      URL.revokeObjectURL(address);
      this.open.get(data.number)?.take(data);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.end(`The model's worker has ended (${event.message || "no reason given"}); reload the page.`);
    };
  }

  /** @param {string} why */
  end(why) {
    this.dead = new Error(why);
    this.worker.terminate();
    for (const { fail } of this.open.values()) fail(this.dead);
    this.open.clear();
  }
  close() {
    this.end("The engine is closed; start another.");
  }

  /** Ask the worker, and get what it tells until it has a result. @returns {Promise<any>} */
  ask(call, options = {}, told = (/** @type {any} */ _) => {}, number = ++this.count) {
    return new Promise((resolve, reject) => {
      if (this.dead) throw this.dead;
      const finish = (/** @type {() => void} */ then) => {
        this.open.delete(number);
        then();
      };
      this.open.set(number, {
        fail: reject,
        take(data) {
          if ("error" in data) finish(() => reject(new Error(data.error)));
          else if (data.stopped) finish(() => reject(new DOMException("It was stopped.", "AbortError")));
          else if ("result" in data) finish(() => resolve(data.result));
          else told(data);
        },
      });
      this.worker.postMessage({ number, call, ...options });
    });
  }

  async loadSmall() {
    const [small, gpt2] = await Promise.all([bring("small"), bring("gpt2")]);
    this.model = await this.ask("loadSmall", { ...small, tokens: gpt2.tokens });
  }

  /**
   * Resolves to the file. @returns {Promise<Blob>}
   * @param {Blob | string} source a chosen file, or an address
   * @param {{onProgress?: (done: {received: number, total: number}) => void, signal?: AbortSignal}} options
   */
  async loadGGUF(source, { onProgress, signal } = {}) {
    signal?.throwIfAborted();
    this.model = null;
    const number = ++this.count;
    const stop = () => this.worker.postMessage({ call: "stop", of: number });
    signal?.addEventListener("abort", stop);
    try {
      const from = typeof source === "string" ? new URL(source, document.baseURI).href : source;
      const told = (/** @type {any} */ { progress }) => onProgress?.(progress);
      const { blob, ...model } = await this.ask("loadGGUF", { source: from, expected: this.smollm2 }, told, number);
      this.model = model;
      return blob;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  /** @param {string} text @returns {Promise<Token[]>} */
  encode(text, { special = false } = {}) {
    return this.ask("encode", { text, special });
  }

  /** The steps of a generation, as they come; to leave the loop stops it. @param {Options} options */
  generate(options) {
    const number = ++this.count;
    const steps = this.steps(options, number);
    const end = steps.return.bind(steps);
    steps.return = async (value) => {
      await this.stop(number); // also while a step is on its way
      return end(value);
    };
    return steps;
  }

  /** @param {Options} options @param {number} number @returns {AsyncGenerator<Step, void>} */
  async *steps(options, number) {
    /** @type {Step[]} */
    const steps = [];
    let done = false;
    let wake = () => {};
    const add = (/** @type {any} */ { step }) => {
      steps.push(step);
      wake();
    };
    const ended = this.ask("generate", options, add, number).catch((error) => {
      if (error.name !== "AbortError") return error;
    });
    ended.then(() => {
      done = true;
      wake();
    });
    while (!done || steps.length) {
      if (steps.length) yield /** @type {Step} */ (steps.shift());
      else await new Promise((resolve) => (wake = () => resolve(null)));
    }
    const problem = await ended;
    if (problem) throw problem;
  }

  /** Stop what the worker does, or one call; resolves when it has ended. @param {number} [of] */
  async stop(of) {
    if (this.dead) return;
    this.worker.postMessage({ call: "stop", of });
    while (of === undefined ? this.open.size : this.open.has(of))
      await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** Forget all but the first tokens of the cache. @param {number} n_tokens @returns {Promise<void>} */
  crop(n_tokens) {
    return this.ask("crop", { n_tokens });
  }

  /** The logits after the last token. @returns {Promise<Float32Array>} */
  logits(ids, { use_cache = false, way, max_chunk } = /** @type {any} */ ({})) {
    return this.ask("logits", { ids, use_cache, way, max_chunk });
  }
}
