// The worker: one model with its cache and its tokenizer. It is asked by messages {number, call, ...}, and answers each
// by {number} with some {step} or {progress}, and at last a {result}, an {error} or {stopped}.
import { readGGUF, readSafetensors } from "./files.js";
import { generate, nCommon, read } from "./generate.js";
import { Memory } from "./products.js";
import { gpt2Tokenizer, smolTokenizer } from "./tokenizer.js";
import { GPT, Llama, bytesFor } from "./transformer.js";

// What SmolLM2 may read in a page: 4,096 tokens, whose keys and values take 189 MB, and fewer without a cache.
const HERE = { context_length: 4096, max_aside: 1024, max_chunk: 16 };
const PAUSE = 20; // milliseconds of work before messages are looked at
/** @type {any} */
let model = null;
/** @type {any} */
let tokenizer = null;
let room = /** @type {Memory | null} */ (null); // of the newest file, for the next one
let looked = 0; // when messages were looked at
let before = Promise.resolve(); // the calls before
const open = /** @type {Map<number, AbortController>} */ (new Map()); // the calls without an answer

const calls = {
  /** The book's small model. @param {any} options */
  loadSmall({ weights, config: { vocab_size: n_vocab, ...config }, tokens }) {
    const most = { max_chunk: config.context_length, max_aside: config.context_length };
    const sizes = { n_vocab, n_kv_heads: config.n_heads, hidden_dim: 4 * config.emb_dim, norm_eps: 1e-5 };
    const cfg = { ...config, ...sizes, ...most };
    room = null;
    const bytes = Uint8Array.from(atob(weights), (char) => char.charCodeAt(0));
    const memory = new Memory(bytes.length + bytesFor(cfg));
    const file = memory.take(bytes.length);
    file.set(bytes);
    model = new GPT(memory, cfg, readSafetensors(file));
    tokenizer = gpt2Tokenizer(tokens);
    return { ...cfg, name: "the book's small model", way: memory.way, weights_bytes: file.length };
  },

  /** SmolLM2, if it is what the book expects. @param {{source: Blob | string, expected: any}} options */
  async loadGGUF({ source, expected }, pause, tell, signal) {
    model = null; // its memory is free from here on
    const cfg = { ...expected.config, ...HERE };
    const { memory, file } = await received(source, expected.bytes, bytesFor(cfg), pause, tell, signal);
    const contents = checked(file, expected);
    const hash = await globalThis.crypto?.subtle?.digest("SHA-256", file);
    const found = hash && Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found && found !== expected.sha256)
      throw new Error(`The file is damaged: its SHA-256 is ${found}, not ${expected.sha256}; load it again.`);
    model = new Llama(memory, cfg, contents);
    tokenizer = smolTokenizer(contents.metadata);
    const blob = typeof source === "string" ? new Blob([file]) : source;
    const told = { name: expected.name, way: memory.way, weights_bytes: file.length, checked: Boolean(found), blob };
    return { ...model.cfg, ...told };
  },

  encode({ text, special }) {
    const textOf = tokenizer.reader();
    const known = (id) => !model.known.size || model.known.has(id);
    const ids = tokenizer.encode(text, special);
    return ids.map((id) => ({ id, label: tokenizer.label(id), text: textOf(id), known: known(id) }));
  },

  async generate(options, pause, tell) {
    options.ids ??= tokenizer.encode(options.text);
    options.earlier ??= tokenizer.encode("Many users");
    model.memory.go(options.way);
    for await (const step of generate(model, tokenizer, options, pause)) tell({ step });
  },

  logits({ ids, use_cache, way, max_chunk }, pause) {
    const cache = use_cache ? model.cache : model.aside;
    model.memory.go(way);
    cache.crop(use_cache ? nCommon(cache.ids, ids) : 0);
    return read(model, ids.slice(cache.n_tokens), cache, pause, max_chunk);
  },

  crop: ({ n_tokens }) => model.cache.crop(n_tokens),
};

/** What is in a GGUF file; throws an Error in words if it is not the one that is expected. */
function checked(/** @type {Uint8Array} */ file, { name, config }) {
  if (new TextDecoder().decode(file.subarray(0, 4)) !== "GGUF")
    throw new Error(`The file is no GGUF file: it does not begin with "GGUF"; choose ${name}.`);
  let contents;
  try {
    contents = readGGUF(file);
  } catch (/** @type {any} */ problem) {
    throw problem instanceof RangeError ? new Error("The file is cut off: it ends too early; load it again.") : problem;
  }
  const { metadata } = contents;
  const sizes = { n_layers: "block_count", emb_dim: "embedding_length", n_heads: "attention.head_count" };
  const wrong = Object.entries(sizes).find(([ours, theirs]) => metadata[`llama.${theirs}`] !== config[ours]);
  if (wrong) {
    const other = metadata["general.name"] ?? metadata["general.architecture"];
    const why = `its llama.${wrong[1]} is ${metadata[`llama.${wrong[1]}`]}, not ${config[wrong[0]]}`;
    throw new Error(`The file holds another model, ${other} (${why}); choose ${name}.`);
  }
  return contents;
}

/** The bytes of a file or of an address, at once where the model wants them, and room for what it computes.
 * @param {Blob | string} source @param {number} usual its length if nobody tells @param {number} more bytes of room */
async function received(source, usual, more, pause, tell, signal) {
  const remote = typeof source === "string";
  const response = remote ? await fetch(source, { signal }).catch(unreachable) : new Response(source);
  if (!response.ok || !response.body) throw new Error(`The server answers ${response.status}; try again later.`);
  const told = remote ? Number(response.headers.get("content-length")) : source.size;
  const total = response.headers.get("content-encoding") || !told ? usual : told;
  if (total > 4 * usual) throw new Error(`The file has ${total} bytes; the model has ${usual}. Choose another file.`);
  const fits = room && room.bytes.length >= total + more;
  const memory = (room = fits && room ? room.clear() : new Memory(total + more));
  const file = memory.take(total);
  let n_bytes = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { value } = await reader.read().catch(() => ({ value: null })); // the connection may break
    if (!value) break;
    file.set(value.subarray(0, total - n_bytes), n_bytes);
    n_bytes += value.length;
    tell({ progress: { received: n_bytes, total } });
    await pause();
  }
  await pause();
  if (n_bytes < total) throw new Error(`The load was cut off after ${n_bytes} of ${total} bytes; try again.`);
  return { memory, file };
}

/** @returns {never} */
function unreachable(problem) {
  throw new Error(`The file cannot be loaded (${problem.message}); check the connection and try again.`);
}

/** From time to time look at messages; throws if one of them stops this call. @param {AbortSignal} signal */
async function look(signal) {
  if (performance.now() - looked > PAUSE) {
    const { port1, port2 } = new MessageChannel(); // a timer would wait for 4 ms
    await new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
    looked = performance.now();
  }
  signal.throwIfAborted();
}

async function answer({ number, call, ...options }, signal) {
  const tell = (told) => postMessage({ number, ...told });
  try {
    if (!model && !call.startsWith("load")) throw new Error("No model is loaded; load one first.");
    const result = await calls[call](options, () => look(signal), tell, signal);
    tell({ result });
  } catch (/** @type {any} */ problem) {
    tell(signal.aborted ? { stopped: true } : { error: problem.message });
  }
  open.delete(number);
}

globalThis.onmessage = ({ data }) => {
  const { number, call } = data;
  const controller = new AbortController();
  if (call === "stop") {
    for (const [at, each] of open) if (data.of === undefined || data.of === at) each.abort();
  } else if (call === "encode") answer(data, controller.signal);
  else {
    open.set(number, controller);
    before = before.then(() => answer(data, controller.signal)); // one after the other
  }
};
