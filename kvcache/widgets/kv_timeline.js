// The K/V timeline: a grid of steps by tokens for each traced generation.
import { announcer, guarded, make, stepControls } from "./controls.js";

/**
 * @typedef {object} Panel one traced generation
 * @property {string} title
 * @property {string[]} tokens the prompt and every generated token
 * @property {number} n_prompt
 * @property {string[][]} marks [layer][step]: a letter for each position
 * @property {(string | null)[][]} vectors [layer][step]: base64 of float32 (2, n_positions, emb_dim)
 * @property {number} n_heads
 */

const WORD = { n: "new", c: "recomputed", r: "reused" };
const MEANING = {
  n: "new: computed for the first time",
  c: "recomputed: computed before, now computed again",
  r: "reused: read from the cache",
};

/** @param {{model: {get: (name: string) => any}, el: HTMLElement}} context */
function render({ model, el }) {
  return guarded(el, () => draw(checked(model.get("data")), el));
}

/** @param {{panels: Panel[]}} data @returns {Panel[]} */
function checked(data) {
  const panels = data?.panels;
  if (!Array.isArray(panels) || panels.length === 0) throw new Error("its data has no panels.");
  for (const { tokens, marks } of panels) {
    if (!Array.isArray(tokens) || !marks?.[0]?.length) throw new Error("a panel has no tokens or no steps.");
    for (const row of marks.flat()) {
      if (!/^[ncr]+$/.test(row)) throw new Error(`the marks ${JSON.stringify(row)} are not of n, c and r.`);
    }
  }
  return panels;
}

/** @param {Panel[]} panels @param {HTMLElement} el */
function draw(panels, el) {
  const count = Math.max(...panels.map((panel) => panel.marks[0].length));
  const nLayers = panels[0].marks.length;
  let layer = 0;
  let step = count;
  /** @type {{grid: ReturnType<typeof makeGrid>, step: number, position: number} | null} */
  let chosen = null;

  const speech = announcer();
  const details = make("div", { class: "tff-details" });
  const grids = panels.map((panel) => makeGrid(panel, {
    choose: (grid, atStep, position) => {
      controls.stop();
      chosen = { grid, step: atStep, position };
      if (atStep > step) controls.go(atStep);
      update();
    },
    scrub: (toStep) => { controls.stop(); controls.go(toStep); },
  }));
  const controls = stepControls({ count, step, onStep: (to) => { step = to; update(); } });
  const layers = make("select", {
    onchange: () => { layer = Number(layers.value); update(); },
  }, ...panels[0].marks.map((_, i) => make("option", { value: i }, `${i + 1} of ${nLayers}`)));
  controls.root.append(make("label", { class: "tff-layers" }, "Layer ", layers));

  const letters = [..."ncr"].filter((letter) => panels.some((panel) => panel.marks[0].join("").includes(letter)));
  const legend = make("ul", { class: "tff-legend" }, ...letters.map((letter) =>
    make("li", {}, make("span", { class: `tff-mark tff-${WORD[letter]}` }), MEANING[letter])));

  el.replaceChildren(
    controls.root, legend,
    make("div", { class: "tff-panels" }, ...grids.map((grid) => grid.root)),
    speech.root, details);

  function update() {
    for (const grid of grids) grid.update(layer, step, chosen?.grid === grid ? chosen : null);
    speech.say(inWords(panels, layer, step));
    details.replaceChildren(...(chosen
      ? describe(chosen.grid.panel, layer, chosen.step, chosen.position)
      : [make("p", {}, "Choose a square to see its key and value.")]));
  }
  controls.go(count);
  return controls.stop;
}

/**
 * @param {Panel} panel
 * @param {{choose: Function, scrub: (step: number) => void}} on
 */
function makeGrid(panel, on) {
  const steps = panel.marks[0].length;
  const width = panel.marks[0][steps - 1].length;
  /** @type {HTMLElement[][]} */
  const cells = [];
  const body = make("tbody");
  for (let s = 0; s < steps; s++) {
    cells.push(panel.tokens.slice(0, panel.marks[0][s].length).map((_, position) => make("button", {
      type: "button", tabindex: -1,
      onclick: () => { focusable(s, position); on.choose(grid, s + 1, position); },
      onkeydown: (event) => walk(/** @type {KeyboardEvent} */ (event), s, position),
    })));
    body.append(make("tr", {
      onpointermove: (event) => event.pointerType === "mouse" && event.buttons === 1 && on.scrub(s + 1),
    },
    make("th", { scope: "row" }, String(s + 1)),
    ...Array.from({ length: width }, (_, i) => make("td", {}, cells[s][i] ?? "")),
    make("td", { class: "tff-writes" }, panel.tokens[panel.marks[0][s].length] ?? "")));
  }
  const head = make("tr", {}, make("th", { scope: "col" }, "step"),
    ...panel.tokens.slice(0, width).map((token) => make("th", { scope: "col" }, make("span", {}, token))),
    make("th", { scope: "col", class: "tff-writes" }, "writes"));
  const counters = make("p", { class: "tff-counters" });
  const root = make("section", { class: "tff-panel", "aria-label": panel.title },
    make("div", { class: "tff-scroll" },
      make("table", { class: width > 4 ? "tff-many" : false },
        make("caption", {}, panel.title), make("thead", {}, head), body)),
    counters);
  focusable(0, 0);

  function focusable(s, position) {
    root.querySelector('button[tabindex="0"]')?.setAttribute("tabindex", "-1");
    cells[s][position].setAttribute("tabindex", "0");
  }
  /** Arrow keys walk through the grid; Enter and Space choose, as on any button. */
  function walk(event, s, position) {
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    const toStep = Math.min(steps - 1, Math.max(0, s + down));
    const to = Math.min(cells[toStep].length - 1, Math.max(0, position + right));
    focusable(toStep, to);
    cells[toStep][to].focus();
  }

  const grid = {
    root, panel,
    /** @param {number} layer @param {number} step @param {{step: number, position: number} | null} chosen */
    update(layer, step, chosen) {
      const total = { n: 0, c: 0, r: 0 };
      cells.forEach((row, s) => row.forEach((cell, position) => {
        const letter = panel.marks[layer][s][position];
        const done = s < step;
        if (done) total[letter] += 1;
        cell.className = done ? `tff-mark tff-${WORD[letter]}` : "tff-mark tff-later";
        cell.setAttribute("aria-label",
          `step ${s + 1}, token ${position + 1} ${panel.tokens[position]}: ${done ? WORD[letter] : "not yet"}`);
        cell.setAttribute("aria-pressed", String(chosen?.step === s + 1 && chosen.position === position));
      }));
      body.querySelectorAll("tr").forEach((row, s) => {
        row.toggleAttribute("data-current", s + 1 === step);
        row.toggleAttribute("data-later", s + 1 > step);
      });
      counters.replaceChildren(
        make("span", {}, `K/V pairs in layer ${layer + 1}:`), ...counter("computed", total.n + total.c), ...counter("reused", total.r),
        ...counter("wasted", total.c));
    },
  };
  return grid;
}

function counter(name, value) {
  return [make("span", {}, `${name} `, make("b", { "data-counter": name }, String(value)))];
}

/** What the current step did, in a sentence for each panel. */
function inWords(panels, layer, step) {
  const parts = panels.map((panel) => {
    const row = panel.marks[layer][step - 1];
    if (!row) return `${panel.title}: finished.`;
    const counts = [..."ncr"].map((letter) => [row.split(letter).length - 1, WORD[letter]]);
    return `${panel.title}: ${counts.filter(([n]) => n).map((pair) => pair.join(" ")).join(", ")}.`;
  });
  const { tokens, marks } = panels.find((panel) => panel.marks[0].length >= step);
  const read = marks[0][step - 1].length;
  const text = tokens.slice(0, read).join("").replaceAll("␣", " ");
  const written = tokens[read].replaceAll("␣", " ");
  return `Step ${step} has the text “${text}” and writes “${written}”. ${parts.join(" ")}`;
}

/** The key and the value behind one cell, and whether they equal those of the step before. */
function describe(panel, layer, step, position) {
  const now = vectorsAt(panel, layer, step, position);
  const word = WORD[panel.marks[layer][step - 1][position]];
  const title = make("p", { class: "tff-title" },
    `${panel.title}, step ${step}, layer ${layer + 1}, token ${position + 1} `,
    make("q", {}, panel.tokens[position]), `: ${word}`);
  if (!now) return [title, make("p", {}, "The vectors of this generation were not kept.")];
  const before = step > 1 ? vectorsAt(panel, layer, step - 1, position) : null;
  return [
    title,
    make("p", { "data-same": before ? String(difference(now, before)) : "first" }, comparison(now, before, step)),
    vectorTable("key", now[0], panel.n_heads),
    vectorTable("value", now[1], panel.n_heads),
  ];
}

function comparison(now, before, step) {
  if (!before) return "This key and this value are new in this step: there is nothing to compare them with.";
  const gap = difference(now, before);
  return gap === 0
    ? `Key and value equal those of step ${step - 1}, bit for bit.`
    : `Key and value equal those of step ${step - 1} but for rounding: the largest difference is ${gap.toExponential(1)}.`;
}

/** The largest difference between two pairs of key and value. */
function difference(a, b) {
  return Math.max(...a.flatMap((vector, i) => Array.from(vector, (x, j) => Math.abs(x - b[i][j]))));
}

/** @returns {[Float32Array, Float32Array] | null} key and value, or null where they are not there */
function vectorsAt(panel, layer, step, position) {
  const text = panel.vectors?.[layer]?.[step - 1];
  const n = panel.marks[layer][step - 1].length;
  if (!text || position >= n) return null;
  const numbers = new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const size = numbers.length / 2 / n;
  return [0, n].map((start) => numbers.subarray((start + position) * size, (start + position + 1) * size));
}

function vectorTable(name, vector, nHeads) {
  const size = vector.length / nHeads;
  const rows = Array.from({ length: nHeads }, (_, head) => make("tr", {},
    make("th", { scope: "row" }, `head ${head + 1}`),
    ...Array.from(vector.subarray(head * size, (head + 1) * size), (x) => make("td", {}, x.toFixed(2).replace("-", "−")))));
  return make("div", { class: "tff-scroll", tabindex: 0, role: "region", "aria-label": `the ${name}` },
    make("table", { class: "tff-vector" }, make("caption", {}, name), make("tbody", {}, ...rows)));
}

export default { render };
