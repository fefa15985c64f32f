// Generation step by step: what is read again, the next token's probabilities, and the choice.
import { WORD, announcer, figure, filled, legend, make, need, quoted, stepControls } from "./controls.js";

/**
 * The text so far is `kept` tokens, then `again`, then `first`; `best` are labels.
 * @typedef {{kept: number, again: number, first: number, best: string[], probabilities: number[], chosen: number}} Step
 * @typedef {{tokens: string[], texts: string[], n_vocab: number, steps: Step[]}} Data
 */
const MEANING = { n: "read for the first time", c: "read again", r: "kept: not read again" };
const NOTE = { n: "first time", c: "again", r: "kept", w: "written" }; // under each token

/** @param {Data} data */
function checked(data) {
  for (const { kept, again, first, best, probabilities, chosen } of filled(data?.steps, "steps")) {
    need(
      kept + again + first < filled(data.tokens, "tokens").length && data.texts?.length === data.tokens.length,
      "too few tokens or texts",
    );
    need(best?.length && best.length === probabilities?.length && chosen in best, "too few probabilities");
  }
  return data;
}

/** @param {Data} data @param {HTMLElement} el */
function draw({ tokens, texts, n_vocab, steps }, el) {
  const speech = announcer();
  const chips = tokens.map((token) => {
    const square = make("span", { class: "tff-mark" });
    const note = make("small");
    return { square, note, root: make("li", {}, square, make("bdi", {}, token), note), letter: "?" };
  });
  const bars = make("table", { class: "tff-bars" });
  const counters = make("p", { class: "tff-counters" });
  const meaning = steps.some((step) => step.kept) ? MEANING : { n: MEANING.n, c: MEANING.c };
  const controls = stepControls({ count: steps.length, step: 1, onStep: show, speech });
  el.replaceChildren(
    controls.root,
    legend(meaning),
    make("ol", { class: "tff-chips" }, ...chips.map((chip) => chip.root)),
    counters,
    make("div", { class: "tff-scroll" }, bars),
    speech.root,
  );

  function show(at) {
    const { kept, again, first, best, probabilities, chosen } = steps[at - 1];
    const end = kept + again + first;
    chips.forEach((chip, i) => {
      const letter = i < kept ? "r" : i < kept + again ? "c" : i < end ? "n" : i === end ? "w" : "";
      if (chip.letter === letter) return; // only what changes is touched
      chip.letter = letter;
      chip.root.style.visibility = letter ? "" : "hidden"; // it keeps its place
      chip.square.className = `tff-mark tff-${WORD[letter] ?? "later"}`;
      chip.note.textContent = NOTE[letter] ?? "";
    });
    const others = n_vocab - best.length;
    const rest = Math.max(0, 1 - probabilities.reduce((sum, p) => sum + p, 0));
    bars.replaceChildren(
      make("caption", {}, "The next token, by the model's probabilities"),
      make(
        "tbody",
        {},
        ...best.map((token, i) => bar(make("bdi", {}, token), probabilities[i], i === chosen)),
        others ? bar(`${others.toLocaleString("en")} others`, rest, false) : "",
      ),
    );
    const total = (name) => steps.slice(0, at).reduce((sum, step) => sum + step[name], 0);
    counters.replaceChildren(
      make("span", {}, "tokens read so far:"),
      ...["first", "again"].map((name) =>
        make(
          "span",
          {},
          name === "first" ? "for the first time " : "again ",
          make("b", { "data-counter": name }, String(total(name))),
        ),
      ),
    );
    speech.say(
      `Step ${at} has the text `,
      quoted(texts.slice(0, end).join("")),
      `: ${first} read for the first time, ${again} again. It writes `,
      quoted(texts[end] || tokens[end]),
      `, to which the model gives ${percent(probabilities[chosen])}.`,
    );
  }
  controls.go(1);
  return controls.stop;
}

function bar(name, probability, chosen) {
  return make(
    "tr",
    { "data-current": chosen },
    make("th", { scope: "row" }, name),
    make("td", {}, make("span", { class: "tff-bar", style: `width: ${100 * probability}%` })),
    make("td", { "data-probability": probability }, percent(probability), chosen ? " ✓ chosen" : ""),
  );
}

function percent(probability) {
  return probability && probability < 0.001 ? "< 0.1%" : `${(100 * probability).toFixed(1)}%`;
}

export default figure("Generation", checked, draw);
