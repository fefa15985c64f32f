// Break it: choose a bug, and see what goes wrong.
import {
  WORD,
  announcer,
  counted,
  figure,
  filled,
  legend,
  make,
  mark,
  need,
  picker,
  quoted,
  reveal,
  row,
  stepControls,
  tokenTable,
} from "./controls.js";

/**
 * A key was taken for position `at`, and is truly at `place`; null: in an earlier text.
 * @typedef {{label: string, at: number, place: number | null, mark: string, visible: boolean}} Key
 * @typedef {{keys: Key[], error: number}} Step
 * @typedef {{name: string, n_prompt: number, texts: string[], right: string[], steps: Step[]}} Run
 */

/** @param {{runs: Run[]}} data */
function checked(data) {
  for (const { steps, texts, right, n_prompt } of filled(data?.runs, "runs")) {
    need(
      steps?.length && steps.every((step) => step.keys?.every((key) => WORD[key.mark])),
      "a run without steps or marks",
    );
    need(texts?.length === n_prompt + steps.length && right?.length === texts.length, "a run with too few texts");
  }
  return data.runs;
}

/** @param {Run[]} runs @param {HTMLElement} el */
function draw(runs, el) {
  let run = runs[0];
  const speech = announcer();
  const stage = make("div");
  const texts = make("div");
  const controls = stepControls({ count: run.steps.length, step: 1, onStep: show, speech });
  const bugs = picker(
    "Bug",
    runs.map((each) => each.name),
    (index) => {
      run = runs[index];
      controls.resize(run.steps.length, run.steps.length);
    },
  );
  el.replaceChildren(
    runs.length > 1 ? make("div", { class: "tff-controls" }, bugs.root) : "",
    controls.root,
    legend(WORD),
    stage,
    speech.root,
    texts,
  );

  function show(at) {
    const { keys, error } = run.steps[at - 1];
    const keysFound = table(run, at);
    stage.replaceChildren(keysFound);
    reveal(keysFound, keysFound.querySelector("tbody td:last-child")); // the newest key
    const wrong = [
      [keys.filter(isOld).length, "of an earlier text"],
      [keys.filter((key, i) => isAgain(key, i, keys)).length, "there again"],
      [keys.filter(isMisplaced).length, "at a wrong position"],
      [keys.filter((key) => !key.visible).length, "hidden by the mask"],
    ]
      .filter(([n]) => n)
      .map(([n, what]) => `${n} ${what}`);
    speech.say(
      `Step ${at}, ${counted(keys.length, "key")} found, ${wrong.join(", ") || "none wrong"}. ` +
        `The logits are off by ${error < 1e-3 ? "less than 0.001" : error.toFixed(1)}.`,
    );
    const end = run.n_prompt + at;
    const differs = run.texts.findIndex((text, i) => i < end && text !== run.right[i]);
    texts.replaceChildren(
      make("p", {}, "It writes ", quoted(run.texts.slice(0, end).join("")), differs < 0 ? " ✓" : " ✗"),
      make("p", {}, "Right is ", quoted(run.right.slice(0, end).join(""))),
    );
  }
  controls.go(run.steps.length);
  return controls.stop;
}

/** @param {Key} key */
function isOld({ place }) {
  return place === null;
}
function isMisplaced({ at, place }) {
  return place !== null && at !== place;
}
function isAgain({ place }, i, keys) {
  return place !== null && keys.findIndex((key) => key.place === place) < i;
}

/** Rows: the steps so far, then positions and mask of the newest. @param {Run} run @param {number} at */
function table(run, at) {
  const { keys } = run.steps[at - 1];
  const verdict = (fine, text) => (fine ? String(text) : make("b", {}, `✗ ${text}`));
  return tokenTable(
    "What attention finds in layer 1",
    "key of",
    keys.map((key) => key.label),
    [
      ...run.steps.map((step, s) => {
        const line = row(
          `step ${s + 1}`,
          keys.map((_, i) => mark(step.keys[i]?.mark)),
          s + 1 === at,
        );
        line.style.visibility = s < at ? "" : "hidden"; // it keeps its place
        return line;
      }),
      row(
        "text",
        keys.map((key, i) =>
          isOld(key) ? verdict(false, "old") : isAgain(key, i, keys) ? verdict(false, "again") : "this",
        ),
      ),
      row(
        "position",
        keys.map((key) => verdict(!isMisplaced(key), key.at)),
      ),
      row(
        "mask",
        keys.map(({ visible }) => verdict(visible, visible ? "open" : "hidden")),
      ),
    ],
  );
}

export default figure("Break it", checked, draw);
