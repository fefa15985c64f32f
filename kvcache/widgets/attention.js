// Attention by hand: each number, and what it was made from.
import { announcer, arrow, figure, make, need, picker, shown, stepControls } from "./controls.js";

const MARKS = {
  "+": ["tff-new", "new in this step"],
  "=": ["tff-reused", "same as the step before"],
  "≠": ["tff-changed", "changed since the step before"],
  " ": ["", "given"],
};

/** @param {{words: string[], stages: [string, string, string[]][], runs: object[][]}} data */
function checked(data) {
  const { words, stages, runs } = data ?? {};
  need(words?.length && stages?.length && runs?.flat().length === 2 * words.length, "gaps");
  for (const { tables } of runs.flat())
    for (const name of stages.flatMap((each) => each[2])) {
      need(
        tables?.[name]?.flat().every(([x, mark, , how]) => Number.isFinite(x ?? 0) && MARKS[mark] && how),
        `no right table ${name}`,
      );
    }
  return data;
}

function draw({ words, stages, runs }, el) {
  let [stage, token, step, run] = [1, 0, words.length];
  const cells = new Map(); // by place: "keys,0,2"
  const speech = announcer(),
    told = announcer();
  const panels = make("div", { class: "tff-panels" });
  const controls = stepControls({
    count: stages.length,
    step: stage,
    speech,
    onStep: (to) => {
      stage = to;
      update();
    },
    name: (at, of) => `stage ${at} of ${of}: ${stages[at - 1][0]}`,
  });
  const tokens = picker("Token", words, (at) => choose(at, Math.max(step, at + 1)));
  const texts = picker(
    "Text",
    words.map((_, i) => `step ${i + 1}: ${words.slice(0, i + 1).join(" ")}`),
    (at) => choose(Math.min(token, at), at + 1),
  );
  const mask = make("input", { type: "checkbox", checked: true, onchange: update });
  el.replaceChildren(
    controls.root,
    make("div", { class: "tff-controls" }, tokens, texts, make("label", { class: "tff-field" }, mask, "Causal mask")),
    speech.root,
    make("ul", { class: "tff-legend" }, ...[..."+=≠"].map((mark) => make("li", {}, box("span", mark), MARKS[mark][1]))),
    told.root,
    panels,
  );

  function choose(at, length) {
    tokens.lastChild.selectedIndex = token = at;
    texts.lastChild.selectedIndex = (step = length) - 1;
    update();
  }
  function update() {
    run = runs[Number(mask.checked)][step - 1];
    const [, does, own] = stages[stage - 1];
    const names = [...own, ...stages.slice(0, stage).flatMap((each) => each[2])];
    cells.clear();
    panels.replaceChildren(...Array.from(new Set(names), table));
    speech.say(`${words[token]}: ${does}. ${run.said}`);
    point(`${own.at(-1)},${token},0`);
  }
  function table(name) {
    const [byWord, acrossWords] = [name[0] !== "W", /scores|weights/.test(name)];
    const head = (scope, i, isWord) => make("th", { scope }, isWord ? make("bdi", {}, words[i]) : `${i + 1}`);
    const rows = run.tables[name];
    return make(
      "div",
      { class: "tff-scroll" },
      make(
        "table",
        {},
        make("caption", {}, name),
        make("tr", {}, make("td"), ...rows[0].map((_, c) => head("col", c, acrossWords))),
        ...rows.map((row, r) =>
          make(
            "tr",
            { "data-current": byWord && r === token },
            head("row", r, byWord),
            ...row.map((_, c) => make("td", {}, cell(name, r, c))),
          ),
        ),
      ),
    );
  }
  function cell(name, r, c) {
    const [x, mark, called] = run.tables[name][r][c];
    const text = x === null ? "−∞" : shown(x, name === "weights" ? 3 : 2);
    const here = `${[name, r, c]}`;
    const show = () => point(here);
    const button = box(
      "button",
      mark,
      {
        tabindex: r + c ? -1 : 0,
        "aria-label": `${called}: ${text}, ${MARKS[mark][1]}`,
        onclick: show,
        onfocus: show,
        onpointermove: show,
        onkeydown(event) {
          const by = arrow(event);
          if (by) cells.get(`${[name, r + by[0], c + by[1]]}`)?.focus();
        },
      },
      make("span", {}, text),
    );
    cells.set(here, button);
    return button;
  }
  function point(here) {
    const [name, r, c] = here.split(",");
    const [, , called, how] = run.tables[name][r][c];
    const sources = [here];
    const number = (key) => cells.get(key).firstChild.textContent;
    const made = how.replace(/\{(.*?)\}/g, (_, key) => number(sources[sources.push(key) - 1]));
    told.root.replaceChildren(make("bdi", {}, called), ` ${made} ${number(here)}`);
    for (const [key, button] of cells) {
      const at = sources.indexOf(key);
      button.setAttribute("aria-pressed", !at);
      button.classList.toggle("tff-source", at > 0);
      if (key.startsWith(name)) button.tabIndex = at ? -1 : 0; // one stop of the Tab key
    }
  }
  controls.go(stage);
  choose(token, step);
  return controls.stop;
}

function box(tag, mark, attributes, text = "") {
  return make(tag, { class: `tff-mark tff-number ${MARKS[mark][0]}`, ...attributes }, text, make("sup", {}, mark));
}

export default figure("Attention", checked, draw);
