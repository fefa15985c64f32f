// Attention by hand: each number, and what it was made from.
import { announcer, arrow, figure, make, need, picker, shown, stepControls } from "./controls.js";

/**
 * runs[causal][step - 1] has the numbers of each table at a step, with and without the mask; null is minus infinity.
 * @typedef {Record<string, (number | null)[][]>} Tables
 * @typedef {{words: string[], runs: Tables[][]}} Data
 */

// A stage shows the tables that it is made from, and last the one that it makes.
const STAGES = [
  { name: "vector", does: "what the model knows of it", tables: ["x"] },
  { name: "query", does: "what it looks for", tables: ["x", "W_q", "queries"] },
  { name: "key", does: "what it is found by", tables: ["x", "W_k", "keys"] },
  { name: "value", does: "what it hands over", tables: ["x", "W_v", "values"] },
  { name: "scores", does: "its query with each key", tables: ["queries", "keys", "scores"] },
  { name: "mask", does: "what it may see", tables: ["scores", "masked scores"] },
  { name: "softmax", does: "weights that sum to 1", tables: ["masked scores", "weights"] },
  { name: "weighted sum", does: "its context", tables: ["weights", "values", "context"] },
];

const MARKS = {
  "+": ["tff-new", "new in this step"],
  "=": ["tff-reused", "same as the step before"],
  "≠": ["tff-changed", "changed since the step before"],
  " ": ["", "given"],
};
const ONE = { queries: "query", keys: "key", values: "value", scores: "score", weights: "weight" }; // of many

/** @param {Data} data */
function checked(data) {
  const { words, runs } = data ?? {};
  need(words?.length && runs?.flat().length === 2 * words.length, "gaps");
  const number = (x) => x === null || Number.isFinite(x);
  for (const name of STAGES.flatMap(({ tables }) => tables))
    for (const tables of runs.flat())
      need(tables?.[name]?.length && tables[name].every((row) => row?.length && row.every(number)), `no table ${name}`);
  return data;
}

/** @param {Data} data @param {HTMLElement} el */
function draw({ words, runs }, el) {
  let [stage, token, step] = [1, 0, words.length];
  let wanted = token; // also while the text is too short for it
  const cells = new Map(); // the buttons, by place: "keys,0,2"
  const speech = announcer();
  const told = announcer();
  const panels = make("div", { class: "tff-panels" });
  const controls = stepControls({
    count: STAGES.length,
    step: stage,
    speech,
    onStep: (to) => {
      stage = to;
      update();
    },
    name: (at, of) => `stage ${at} of ${of}: ${STAGES[at - 1].name}`,
  });
  const tokens = picker("Token", words, (at) => choose((wanted = at), Math.max(step, at + 1)));
  const steps = words.map((_, i) => `step ${i + 1}: ${words.slice(0, i + 1).join(" ")}`);
  const texts = picker("Text", steps, (at) => choose(Math.min(wanted, at), at + 1));
  const mask = make("input", { type: "checkbox", checked: true, onchange: update });
  const marks = [..."+=≠"].map((sign) => make("li", {}, box("span", sign), MARKS[sign][1]));
  el.replaceChildren(
    controls.root,
    make(
      "div",
      { class: "tff-controls" },
      tokens.root,
      texts.root,
      make("label", { class: "tff-field" }, mask, "Causal mask"),
    ),
    speech.root,
    make("ul", { class: "tff-legend" }, ...marks),
    told.root,
    panels,
  );

  function choose(at, length) {
    tokens.select.selectedIndex = token = at;
    texts.select.selectedIndex = (step = length) - 1;
    update();
  }
  function update() {
    const { does, tables } = STAGES[stage - 1];
    cells.clear();
    panels.replaceChildren(...tables.map(table));
    speech.say(`${words[token]}: ${does}. ${whatStays()}`);
    point(String([tables.at(-1), token, 0]));
  }

  const now = () => runs[Number(mask.checked)][step - 1];
  const before = () => runs[Number(mask.checked)][step - 2] ?? {};

  /** What became of a number since the last step. */
  function markOf(name, r, c) {
    if (isGiven(name)) return " ";
    const [x, old] = [now()[name][r][c], before()[name]?.[r]?.[c]];
    if (old === undefined) return "+";
    return x === old || (x !== null && old !== null && Math.abs(x - old) < 2e-6) ? "=" : "≠";
  }
  /** What a cache could keep, in words. */
  function whatStays() {
    const start = `Step ${step}, causal mask ${mask.checked ? "on" : "off"}: `;
    if (step === 1) return `${start}every number is new.`;
    const kept = ["keys", "values", "context"];
    const changed = kept.filter((name) => now()[name].some((row, r) => row.some((_, c) => markOf(name, r, c) === "≠")));
    const same = kept.filter((name) => !changed.includes(name));
    return (
      `${start}${listed(same)} of ${listed(words.slice(0, step - 1))} are the same as at step ${step - 1}` +
      (changed.length ? `; their ${listed(changed)} changed.` : ".")
    );
  }
  function table(name) {
    const head = (scope, i, isWord) => make("th", { scope }, isWord ? make("bdi", {}, words[i]) : String(i + 1));
    const rows = now()[name];
    const top = rows[0].map((_, c) => head("col", c, isAcross(name)));
    const lines = rows.map((row, r) =>
      make(
        "tr",
        { "data-current": !isGiven(name) && r === token },
        head("row", r, !isGiven(name)),
        ...row.map((_, c) => make("td", {}, cell(name, r, c))),
      ),
    );
    const all = make("table", {}, make("caption", {}, name), make("tr", {}, make("td"), ...top), ...lines);
    return make("div", { class: "tff-scroll" }, all);
  }
  function cell(name, r, c) {
    const here = String([name, r, c]);
    const sign = markOf(name, r, c);
    const show = () => point(here);
    const attributes = {
      tabindex: r + c ? -1 : 0,
      "aria-label": `${called(name, r, c, words)}: ${numberAt(name, r, c)}, ${MARKS[sign][1]}`,
      onclick: show,
      onfocus: show,
      onpointermove: show,
      onkeydown(event) {
        const by = arrow(event);
        if (!by) return;
        const last = now()[name][r].length - 1;
        cells.get(String([name, r + by[0], Math.min(last, Math.max(0, c + by[1]))]))?.focus();
      },
    };
    const button = box("button", sign, attributes, numberAt(name, r, c));
    cells.set(here, button);
    return button;
  }
  function numberAt(name, r, c) {
    const x = now()[name][r][c];
    return x === null ? "−∞" : shown(x, name === "weights" ? 3 : 2);
  }
  /** Say how a number was made, and mark what it was made from. */
  function point(here) {
    const [name, r, c] = here.split(",");
    const used = [here];
    const made = how(name, Number(r), Number(c), (...place) => {
      used.push(String(place));
      return numberAt(...place);
    });
    told.root.replaceChildren(make("bdi", {}, called(name, Number(r), Number(c), words)), ` ${made}`);
    for (const [key, button] of cells) {
      const at = used.indexOf(key);
      button.setAttribute("aria-pressed", !at);
      button.classList.toggle("tff-source", at > 0);
      if (key.startsWith(name)) button.tabIndex = at ? -1 : 0; // one stop of the Tab key
    }
  }
  /** How a number was made, in words; `at` gives the text of another number. */
  function how(name, r, c, at) {
    const result = numberAt(name, r, c);
    const [left, right] = STAGES.find(({ tables }) => tables.length > 1 && tables.at(-1) === name)?.tables ?? [];
    if (!left) return `is given: ${result}`;
    if (name === "masked scores")
      return `is ${at(left, r, c)}, ${now()[name][r][c] === null ? "hidden" : "not hidden"} by the mask: ${result}`;
    const row = now()[left][r].map((_, i) => [left, r, i]);
    if (name === "weights")
      return `= exp(${at(left, r, c)}) / (${row.map((place) => `exp(${at(...place)})`).join(" + ")}) ≈ ${result}`;
    const others = row.map((_, i) => (name === "scores" ? [right, c, i] : [right, i, c]));
    const sum = row.map((place, i) => `${at(...place)} · ${at(...others[i])}`).join(" + ");
    if (name === "scores") return `= (${sum}) / √${row.length} ≈ ${result}`;
    const isExact = [...row, ...others, [name, r, c]].every(([of, i, j]) => hasTwoDigits(now()[of][i][j]));
    return `= ${sum} ${isExact ? "=" : "≈"} ${result}`;
  }
  controls.go(stage);
  choose(token, step);
  return controls.stop;
}

const isGiven = (name) => name.startsWith("W");
const isAcross = (name) => /scores|weights/.test(name); // its columns are words, too
const hasTwoDigits = (x) => Math.abs(x - Math.round(100 * x) / 100) < 2e-6;

/** The name of a number: "key 2 of Time". */
function called(name, r, c, words) {
  if (isGiven(name)) return `${name} row ${r + 1}, column ${c + 1}`;
  const one = name.replace(/\w+$/, (last) => ONE[last] ?? last);
  return isAcross(name) ? `${one} of ${words[r]} on ${words[c]}` : `${one} ${c + 1} of ${words[r]}`;
}

function listed(words) {
  return words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words.at(-1)}` : words.join();
}

/** A framed number with its sign. */
function box(tag, sign, attributes = {}, text = "") {
  const frame = { class: `tff-mark tff-number ${MARKS[sign][0]}`, ...attributes };
  return make(tag, frame, make("span", {}, text), make("sup", {}, sign));
}

export default figure("Attention", checked, draw);
