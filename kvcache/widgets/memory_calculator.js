// The memory calculator: cache beside weights, for a model and a GPU.
import { announcer, counted, figure, filled, make, need, picker } from "./controls.js";

/**
 * @typedef {{name: string, bits: number, has_scales: boolean}} Format
 * @typedef {Record<string, bigint>} Sizes by the key of their field
 * @typedef {{lists: {label: string, items: any[]}[]}} Data the items of a list have values of fields
 */

/** What can be typed: unit is what a typed 1 stands for, list the place of the list that has it. */
const FIELDS = [
  { key: "n_layers", label: "Layers" },
  { key: "n_window_layers", label: "of these with a window", least: 0 },
  { key: "window", label: "Window in tokens", least: 0 },
  { key: "n_heads", label: "Attention heads" },
  { key: "n_kv_heads", label: "K/V heads" },
  { key: "head_dim", label: "Head size" },
  { key: "latent_dim", label: "Size of a latent (0: none)", least: 0 },
  { key: "n_parameters", label: "Parameters in billions", unit: 1e9 },
  { key: "batch_size", label: "Texts at once", list: null },
  { key: "context_length", label: "Tokens in each", list: null },
  { key: "memory_bytes", label: "GPU memory in GiB", unit: 2 ** 30, list: 1 },
];
const MOST = 1e9; // that can be typed

const grouped = (number) => number.toLocaleString("en");

/** As in memory.py. @param {Sizes} of @param {bigint} n @param {Format} format */
function cacheBytes(of, n, { bits, has_scales }) {
  const [vectors, numbers] = of.latent_dim ? [1n, of.latent_dim] : [2n * of.n_kv_heads, of.head_dim];
  const beyond = n > of.window ? n - of.window : 0n;
  const kept = of.n_layers * n - of.n_window_layers * beyond;
  return of.batch_size * kept * vectors * ((numbers * BigInt(bits) + 7n) / 8n + (has_scales ? 4n : 0n));
}

/** @param {Sizes} of @param {Format} format */
function weightBytes({ n_parameters: n }, { bits, has_scales }) {
  return (n * BigInt(bits) + 7n) / 8n + (has_scales ? 2n * ((n + 31n) / 32n) : 0n);
}

/** The most tokens that fit; Infinity where only windows are kept. @param {Sizes} of @param {Format} format */
function longestContext(of, format, weights) {
  const free = of.memory_bytes > weights ? of.memory_bytes - weights : 0n;
  const n = free / cacheBytes(of, 1n, format);
  if (!of.n_window_layers || n <= of.window) return Number(n);
  const full = cacheBytes(of, of.window, format);
  const each = cacheBytes(of, of.window + 1n, format) - full;
  return each ? Number(of.window + (free - full) / each) : Infinity;
}

/** A number of bytes in its unit, to two digits after the point. */
function inUnit(bytes) {
  let [value, unit] = [Number(bytes), 0];
  for (; value >= 999.5 && unit < 9; unit++) value /= 1024;
  return { value: Math.round(100 * value) / 100, unit };
}

function size(bytes) {
  const { value, unit } = inUnit(bytes);
  return `${value} ${["", ..."KMGTPEZYR"][unit]}${unit ? "iB" : "B"}`;
}

/** As it is read in `size`: what was rounded alike adds up. */
function rounded(bytes) {
  const { value, unit } = inUnit(bytes);
  return value * 1024 ** unit;
}

/** What a field must be, beside a whole number, given the fields before it; "" if it is. @param {Sizes} of */
function fault(key, number, of) {
  if (key === "n_kv_heads" && of.n_heads && of.n_heads % number)
    return `a divisor of the ${of.n_heads} attention heads`;
  if (key === "n_window_layers" && number > of.n_layers) return `at most the ${of.n_layers} layers`;
  if (key === "window" && of.n_window_layers && !number) return "at least 1, as there are layers with a window";
  return "";
}

/**
 * A number to type; `read` gives it as a bigint, or null.
 * @param {{key: string, label: string, least?: number, unit?: number, list?: number | null}} field
 */
function makeField({ key, label, least = 1, unit = 1, list = 0 }, oninput) {
  const input = make("input", { type: "number", step: "any", value: 1, oninput: () => oninput(list) });
  const wrong = make("span");
  /** @param {Sizes} of @returns {bigint | null} */
  function read(of) {
    const typed = Number(input.value);
    const number = Math.round(typed * unit);
    const isWhole = unit > 1 || number === typed;
    const fine = input.value && isWhole && number >= least && typed <= MOST;
    const range = unit > 1 ? "number above 0" : `whole number of at least ${least}`;
    const must = fine ? fault(key, BigInt(number), of) : `a ${range}, at most ${grouped(MOST)}`;
    input.setAttribute("aria-invalid", String(Boolean(must)));
    wrong.className = must ? "tff-error" : "";
    wrong.textContent = must && `${label} is ${input.value || "no number"}; give ${must}.`;
    return must ? null : BigInt(number);
  }
  return { key, unit, list, input, read, root: make("label", { class: "tff-field" }, `${label} `, input, wrong) };
}

/** @param {Data} data */
function checked(data) {
  need(data?.lists?.length === 4 && data.lists.every(({ items }) => filled(items, "items")), "not 4 lists");
  return data;
}

/** @param {Data} data @param {HTMLElement} el */
function draw({ lists }, el) {
  const pickers = lists.map(({ label, items }) =>
    picker(
      label,
      items.map(({ name }) => name),
      (at) => {
        fill(items[at]);
        update();
      },
    ),
  );
  const inputs = FIELDS.map((each) =>
    makeField(each, (list) => {
      const own = pickers[list]?.select;
      if (own) own.selectedIndex = own.length - 1; // "your own"
      update();
    }),
  );
  const speech = announcer();
  const bars = make("div", { class: "tff-scale" });
  const table = make("table");
  const sources = make("p");

  function fill(item) {
    for (const { key, input, unit } of inputs) if (key in item) input.value = String(item[key] / unit);
  }
  function update() {
    const [model, gpu, cacheFormat, weightFormat] = lists.map(({ items }, i) => items[pickers[i].select.selectedIndex]);
    const links = [model, gpu].flatMap(({ name, source }) =>
      source ? [" ", make("a", { href: source, rel: "noopener" }, name)] : [],
    );
    sources.replaceChildren("1 KiB is 1,024 bytes, 1 GiB is 2³⁰. Sources:", ...links);
    const of = {};
    for (const { key, read } of inputs) of[key] = read(of);
    if (Object.values(of).includes(null)) speech.say("See the marked field. The last good result:");
    else show(of, cacheFormat, weightFormat, model);
  }
  /** @param {Sizes} of @param {Format} cacheFormat @param {Format} weightFormat */
  function show(of, cacheFormat, weightFormat, { name, context_length: limit = Infinity }) {
    const token = cacheBytes({ ...of, batch_size: 1n }, 1n, cacheFormat);
    const cache = cacheBytes(of, of.context_length, cacheFormat);
    const weights = weightBytes(of, weightFormat);
    const longest = longestContext(of, cacheFormat, weights);
    const over = weights + cache - of.memory_bytes;
    const fits = over <= 0n;
    const gpu = size(of.memory_bytes);
    const tooMuch = rounded(weights) + rounded(cache) - rounded(of.memory_bytes);
    const verdict = fits ? `fit into ${gpu}` : `are ${tooMuch > 0 ? size(tooMuch) : "a little"} too much for ${gpu}`;
    const madeFor = `${name} is made for at most ${counted(limit, "token")}`;
    const each = of.batch_size > 1n ? ` in each of ${grouped(of.batch_size)} texts` : "";
    const fitting =
      longest === Infinity
        ? `any: each layer keeps its last ${grouped(of.window)} tokens`
        : longest === 0
          ? "not one token fits beside the weights"
          : `${counted(longest, "token")}${each}`;
    const windows = of.n_window_layers
      ? `; in ${counted(of.n_window_layers, "layer")} only the last ${grouped(of.window)} stay`
      : "";
    const share = Number((1000n * cache) / weights) / 10;
    const rows = [
      ["bytes for one token", "bytes-per-token", token, grouped(token) + windows],
      ["cache", "cache", cache, size(cache)],
      ["weights", "weights", weights, size(weights)],
      ["cache to weights", "cache-to-weights", share, `${grouped(share)}%`],
      ["longest that fits", "longest-context", longest, fitting + (longest > limit ? `; ${madeFor}` : "")],
      ["together", "together", Number(fits), `${size(rounded(weights) + rounded(cache))} of ${gpu}`],
    ];
    const cell = (key, value, text) => make("td", { "data-output": key, "data-value": String(value) }, text);
    const line = (label, key, value, text) =>
      make("tr", {}, make("th", { scope: "row" }, label), cell(key, value, text));
    table.replaceChildren(...rows.map((each) => line(...each)));
    const percent = (bytes) => `${(100 * Number(bytes)) / Number(fits ? of.memory_bytes : of.memory_bytes + over)}%`;
    const bar = (kind, bytes, start) => [
      `${kind} ${size(bytes)}`,
      make("div", {
        class: `tff-mark tff-${kind}`,
        style: `margin-left: ${percent(start)}; width: ${percent(bytes)}`,
      }),
    ];
    bars.replaceChildren(
      ...bar("weights", weights, 0n),
      ...bar("cache", cache, weights),
      ...bar("GPU", of.memory_bytes, 0n),
    );
    const warning = of.context_length > limit ? ` But ${madeFor}.` : "";
    speech.say(`Cache ${size(cache)} and weights ${size(weights)} ${verdict}.${warning}`);
  }
  const group = (parts) => make("div", { class: "tff-controls" }, ...parts.map(({ root }) => root));
  const known = inputs.filter(({ list }) => list !== null); // the lists have them
  const others = inputs.filter(({ list }) => list === null);
  const details = make("details", {}, make("summary", {}, "The model's shape and the GPU's memory"), group(known));
  el.replaceChildren(group([...pickers, ...others]), details, speech.root, bars, table, sources);
  for (const { items } of lists) fill(items[0]);
  update();
}

export default figure("Memory", checked, draw);
