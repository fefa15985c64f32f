// The K/V timeline: a grid of steps by tokens for each traced generation, or of layers by tokens.
import {
  WORD,
  announcer,
  arrow,
  figure,
  filled,
  legend,
  make,
  need,
  picker,
  quoted,
  reveal,
  row,
  scrolling,
  shown,
  stepControls,
  tokenTable,
} from "./controls.js";

/**
 * One traced generation. marks[layer][step] has a letter for each position; vectors[layer][step] is base64 of
 * float32 (2, n_positions, emb_dim).
 * @typedef {{title: string, use_cache: boolean, tokens: string[], texts: string[], n_prompt: number,
 *   marks: string[][], vectors: (string | null)[][], n_heads: number}} Panel
 */
/** @typedef {{panel: Panel, step: number, layer: number, position: number}} Cell step from 1, the rest from 0 */

const COLOUR = { n: "#0072b2", c: "#d55e00", r: "#009e73" }; // for the canvas: as in figure.css
const MEANING = { n: "new: computed for the first time", c: "recomputed: again", r: "reused: from the cache" };
const MANY = 1200; // more cells are drawn as one picture

/** The panels, with the marks counted. @param {{panels: Panel[]}} data */
function checked(data) {
  return filled(data?.panels, "panels").map((panel) => {
    const { tokens, texts, marks } = panel;
    const rows = filled(marks, "marks").flatMap((layer) => filled(layer, "steps"));
    need(
      rows.every((row) => /^[ncr]+$/.test(row)),
      "marks that are none",
    );
    need(
      rows.every((row) => row.length < filled(tokens, "tokens").length) && texts?.length === tokens.length,
      "too few tokens or texts",
    );
    const count = (row, letter) => row.split(letter).length - 1;
    const counts = marks.map((layer) =>
      layer.map((row) => ({ n: count(row, "n"), c: count(row, "c"), r: count(row, "r") })),
    );
    return { ...panel, counts };
  });
}

/** @param {(Panel & {counts: Record<string, number>[][]})[]} panels @param {HTMLElement} el */
function draw(panels, el) {
  const nSteps = Math.max(...panels.map((panel) => panel.marks[0].length));
  const nLayers = panels[0].marks.length;
  let [step, layer, byLayer] = [nSteps, 0, false];
  /** @type {Cell | null} */
  let chosen = null;
  /** @type {ReturnType<typeof makeGrid>[]} */
  let grids = [];

  const speech = announcer();
  const details = make("div", { class: "tff-details" });
  const stage = make("div", { class: "tff-panels" });
  // Layer by layer, each step of the controls is one layer of one step of the generation.
  const controls = stepControls({
    count: nSteps,
    step: nSteps,
    speech,
    onStep(to) {
      chosen = null; // its details belong to the view that is left
      step = byLayer ? Math.ceil(to / nLayers) : to;
      if (byLayer) layer = (to - 1) % nLayers;
      update();
    },
    name: (at) =>
      byLayer
        ? `step ${Math.ceil(at / nLayers)} of ${nSteps}, layer ${((at - 1) % nLayers) + 1} of ${nLayers}`
        : `step ${at} of ${nSteps}`,
  });
  const goTo = (row) => controls.go(byLayer ? (step - 1) * nLayers + row + 1 : row + 1);
  const names = panels[0].marks.map((_, i) => `${i + 1} of ${nLayers}`);
  const layers = picker("Layer", [...names, "all, one by one"], (index) => {
    byLayer = index === nLayers;
    if (!byLayer) layer = index;
    arrange();
  });
  controls.root.append(layers.root);
  const all = panels.map((panel) => panel.marks[0].join("")).join("");
  const meaning = Object.fromEntries(Object.entries(MEANING).filter(([letter]) => all.includes(letter)));
  el.replaceChildren(controls.root, legend(meaning), stage, speech.root, details);

  /** Make the grids of the current view. */
  function arrange() {
    grids = panels.map((panel) =>
      makeGrid(panel, byLayer, {
        choose(row, position) {
          controls.stop();
          if (row > (byLayer ? layer : step - 1)) goTo(row);
          chosen = byLayer ? { panel, step, layer: row, position } : { panel, step: row + 1, layer, position };
          update();
        },
        scrub(row) {
          controls.stop();
          goTo(row);
        },
      }),
    );
    stage.replaceChildren(...grids.map((grid) => grid.root));
    if (byLayer) controls.resize(nSteps * nLayers, step * nLayers);
    else controls.resize(nSteps, step);
  }
  function update() {
    panels.forEach((panel, i) => grids[i].update(step, layer, chosen?.panel === panel ? chosen : null));
    speech.say(...inWords(panels, step, layer, byLayer));
    details.replaceChildren(
      ...(chosen ? describe(chosen) : [make("p", {}, "Choose a square to see its key and value.")]),
    );
  }
  arrange();
  return controls.stop;
}

/** A grid whose rows are steps, or layers of one step, and counters. */
function makeGrid(panel, byLayer, on) {
  const nSteps = panel.marks[0].length;
  const size = {
    rows: byLayer ? panel.marks.length : nSteps,
    width: panel.marks[0][nSteps - 1].length,
    kind: byLayer ? "layer" : "step",
  };
  const drawing = (size.rows * size.width > MANY ? makePicture : makeTable)(panel, size, on);
  const counters = make("p", { class: "tff-counters" });
  return {
    root: make("div", { class: "tff-panel", role: "group", "aria-label": panel.title }, drawing.root, counters),
    update(step, layer, chosen) {
      const here = chosen && (byLayer ? chosen.step === step : chosen.layer === layer) ? chosen : null;
      const rows = byLayer ? panel.marks.map((steps) => steps[Math.min(step, nSteps) - 1]) : panel.marks[layer];
      drawing.update(rows, byLayer ? layer + 1 : step, here && [byLayer ? here.layer : here.step - 1, here.position]);
      const total = { n: 0, c: 0, r: 0 };
      panel.counts.forEach((steps, l) =>
        steps.forEach((counts, s) => {
          const done = byLayer ? s < step - 1 || (s === step - 1 && l <= layer) : l === layer && s < step;
          if (done) for (const letter of "ncr") total[letter] += counts[letter];
        }),
      );
      const numbers = { computed: total.n + total.c, reused: total.r, wasted: total.c };
      counters.replaceChildren(
        make("span", {}, `K/V pairs in ${byLayer ? "all layers so far" : `layer ${layer + 1}`}:`),
        ...Object.entries(numbers).map(([name, value]) =>
          make("span", {}, `${name} `, make("b", { "data-counter": name }, String(value))),
        ),
      );
    },
  };
}

/** Where an arrow key leads from a cell, or null. @returns {[number, number] | null} */
function walked(event, [row, position], rows) {
  const by = arrow(event);
  if (!by) return null;
  const to = Math.min(rows.length - 1, Math.max(0, row + by[0]));
  return [to, Math.min(rows[to].length - 1, Math.max(0, position + by[1]))];
}

function cellName(panel, kind, row, position, word) {
  return `${kind} ${row + 1}, token ${position + 1} ${panel.tokens[position]}: ${word}`;
}

/** A table with a button for each cell. @param {Panel} panel */
function makeTable(panel, { rows: count, width, kind }, on) {
  const shownRows = [];
  let rows = /** @type {string[]} */ ([]); // letters
  let stop = /** @type {HTMLButtonElement | null} */ (null); // the one cell that the Tab key stops at
  const columns = panel.tokens.slice(0, width);
  const phase = (r) => (kind === "layer" || !panel.use_cache || panel.n_prompt === 1 ? "" : r ? " decode" : " prefill");
  const cells = Array.from({ length: count }, (_, r) =>
    columns.map((_, position) =>
      make("button", {
        type: "button",
        tabindex: -1,
        onclick: () => {
          focusable(r, position);
          on.choose(r, position);
        },
        onkeydown: (event) => {
          const to = walked(event, [r, position], rows);
          if (to) focusable(...to).focus();
        },
      }),
    ),
  );
  const body = cells.map((buttons, r) => {
    const writes = make("bdi", { class: "tff-writes" }, kind === "step" ? panel.tokens[panel.marks[0][r].length] : "");
    const line = row(
      make("span", {}, kind === "step" ? String(r + 1) : `layer ${r + 1}`, make("small", {}, phase(r))),
      [...buttons, writes],
    );
    line.onpointermove = (event) => event.pointerType === "mouse" && event.buttons === 1 && on.scrub(r);
    return line;
  });
  const root = tokenTable(panel.title, kind, columns, body);
  const lines = root.querySelectorAll("tr");
  if (kind === "step") lines[0].append(make("th", { scope: "col", class: "tff-writes" }, "writes"));
  // Where the prompt ends.
  if (panel.n_prompt > 1) for (const line of lines) line.cells[panel.n_prompt + 1]?.classList.add("tff-edge");
  focusable(0, 0);

  function focusable(r, position) {
    if (stop) stop.tabIndex = -1;
    stop = cells[r][position];
    stop.tabIndex = 0;
    reveal(root, stop.parentElement);
    return stop;
  }
  return {
    root,
    update(to, done, chosen) {
      rows = to;
      rows.forEach((letters, r) => {
        const pressed = chosen?.[0] === r ? chosen[1] : -1;
        const looks = `${letters} ${r - done < 0} ${r === done - 1} ${pressed}`;
        if (shownRows[r] === looks) return; // only rows that change are touched
        shownRows[r] = looks;
        cells[r].forEach((cell, position) => {
          const word = (r < done && WORD[letters[position]]) || "not yet";
          cell.hidden = position >= letters.length;
          cell.className = `tff-mark tff-${r < done ? word : "later"}`;
          cell.setAttribute("aria-label", cellName(panel, kind, r, position, word));
          cell.setAttribute("aria-pressed", String(position === pressed));
        });
        body[r].toggleAttribute("data-current", r === done - 1);
        body[r].toggleAttribute("data-later", r >= done);
      });
      const newest = Math.min(done, count) - 1;
      reveal(root, body[newest].cells[rows[newest].length]);
    },
  };
}

/** One picture of very many cells, with a button that arrow keys move. */
function makePicture(panel, { rows: count, width, kind }, on) {
  const size = Math.max(3, Math.min(12, Math.floor(600 / width)));
  const scale = window.devicePixelRatio || 1;
  const canvas = make("canvas", {
    width: width * size * scale,
    height: count * size * scale,
    style: `width: ${width * size}px; height: ${count * size}px`,
    onclick: (event) => {
      const row = Math.min(count - 1, Math.floor(event.offsetY / size));
      on.choose(row, Math.min(rows[row].length - 1, Math.floor(event.offsetX / size)));
    },
  });
  const cursor = make("button", {
    type: "button",
    class: "tff-cursor",
    onclick: () => on.choose(...at),
    onkeydown: (event) => place(walked(event, at, rows) ?? at),
  });
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  let rows = /** @type {string[]} */ ([]); // letters
  let at = /** @type {[number, number]} */ ([0, 0]); // row and position of the cursor
  let done = 0;

  function place([row, position]) {
    at = [row, Math.min(position, rows[row].length - 1)];
    cursor.style.cssText = `left: ${(at[1] + 0.5) * size}px; top: ${(row + 0.5) * size}px`;
    cursor.setAttribute(
      "aria-label",
      cellName(panel, kind, row, at[1], row < done ? WORD[rows[row][at[1]]] : "not yet"),
    );
  }
  function drawRow(letters, y) {
    [...letters].forEach((letter, i) => {
      pen.fillStyle = pen.strokeStyle = COLOUR[letter];
      const x = i * size;
      if (letter === "n") pen.fillRect(x, y, size, size);
      else if (letter === "r") pen.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
      else {
        pen.beginPath();
        pen.moveTo(x, y + size);
        pen.lineTo(x + size, y);
        pen.stroke();
      }
    });
  }
  return {
    root: make(
      "div",
      {},
      make("p", { class: "tff-title" }, panel.title),
      make("p", {}, `Each row is a ${kind}, 1 to ${count}; each column a token, 1 to ${width}.`),
      make("div", { class: "tff-scroll" }, make("div", { class: "tff-overview" }, canvas, cursor)),
    ),
    update(to, toDone, chosen) {
      const goesOn = rows[0] === to[0] && rows[count - 1] === to[count - 1] && toDone >= done;
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      if (!goesOn) pen.clearRect(0, 0, width * size, count * size);
      for (let row = goesOn ? done : 0; row < Math.min(toDone, count); row++) drawRow(to[row], row * size);
      [rows, done] = [to, toDone];
      place(chosen ?? at);
      cursor.setAttribute("aria-pressed", String(Boolean(chosen)));
    },
  };
}

/** What the current step did. */
function inWords(panels, step, layer, byLayer) {
  const parts = panels.map(({ title, counts }) => {
    const count = counts[layer][step - 1];
    const said = [..."ncr"].filter((letter) => count?.[letter]).map((letter) => `${count[letter]} ${WORD[letter]}`);
    return `${title}: ${said.join(", ") || "finished"}.`;
  });
  const { texts, tokens, marks, n_prompt, use_cache } = panels.find((panel) => panel.marks[0].length >= step);
  const read = marks[0][step - 1].length;
  const phase = n_prompt === 1 || !use_cache ? "" : step === 1 ? " (prefill)" : " (decode)";
  return [
    `Step ${step}${phase}${byLayer ? `, layer ${layer + 1}` : ""} has the text `,
    quoted(texts.slice(0, read).join("")),
    " and writes ",
    quoted(texts[read] || tokens[read]),
    `. ${parts.join(" ")}`,
  ];
}

/** The key and the value behind a cell, and whether they changed. @param {Cell} cell */
function describe({ panel, layer, step, position }) {
  const title = make(
    "p",
    { class: "tff-title" },
    `${panel.title}, step ${step}, layer ${layer + 1}, token ${position + 1} `,
    quoted(panel.tokens[position]),
    `: ${WORD[panel.marks[layer][step - 1]?.[position]] ?? "not read yet"}`,
  );
  const now = vectorsAt(panel, layer, step, position);
  if (!now) return [title, make("p", {}, "The vectors of this generation were not kept.")];
  const before = vectorsAt(panel, layer, step - 1, position);
  const gap =
    before && Math.max(...now.flatMap((vector, i) => Array.from(vector, (x, j) => Math.abs(x - before[i][j]))));
  const same = `Key and value equal those of step ${step - 1}`;
  return [
    title,
    make(
      "p",
      { "data-same": gap ?? "first" },
      gap === null
        ? "This key and this value are new in this step: there is nothing to compare them with."
        : gap === 0
          ? `${same}, bit for bit.`
          : `${same} but for rounding: the largest difference is ${gap.toExponential(1)}.`,
    ),
    ...["key", "value"].map((name, i) => vectorTable(name, now[i], panel.n_heads)),
  ];
}

/** The key and the value, or null where they are not there. */
function vectorsAt(panel, layer, step, position) {
  const text = panel.vectors?.[layer]?.[step - 1];
  const n = panel.marks[layer][step - 1]?.length;
  if (!text || position >= n) return null;
  const numbers = new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const size = numbers.length / 2 / n;
  return [0, n].map((start) => numbers.subarray((start + position) * size, (start + position + 1) * size));
}

function vectorTable(name, vector, nHeads) {
  const size = vector.length / nHeads;
  return scrolling(
    `the ${name}`,
    make(
      "table",
      { class: "tff-vector" },
      make("caption", {}, name),
      make(
        "tbody",
        {},
        ...Array.from({ length: nHeads }, (_, head) =>
          make(
            "tr",
            {},
            make("th", { scope: "row" }, `head ${head + 1}`),
            ...Array.from(vector.subarray(head * size, (head + 1) * size), (x) => make("td", {}, shown(x))),
          ),
        ),
      ),
    ),
  );
}

export default figure("K/V timeline", checked, draw);
