// The five changes: source and timeline before and after each.
import {
  WORD,
  announcer,
  figure,
  filled,
  legend,
  make,
  mark,
  need,
  row,
  scrolling,
  stepControls,
  tokenTable,
} from "./controls.js";

/**
 * @typedef {{tokens: string[], rows: [string, string][]}} Timeline rows: a letter for each token, and a note
 * @typedef {[string | null, string | null, boolean]} Line before, after, and whether it changed
 * @typedef {{title: string, effect: string, pieces: {where: string, rows: Line[]}[], before: Timeline, after: Timeline}} Change
 */

const AROUND = 2; // unchanged lines shown beside changed ones

/** @param {{changes: Change[]}} data */
function checked(data) {
  for (const { pieces, before, after } of filled(data?.changes, "changes")) {
    need(
      pieces?.every((piece) => Array.isArray(piece.rows)),
      "a change without source",
    );
    need(
      [before, after].every((each) => each?.rows?.every(([marks]) => /^[ncr.]+$/.test(marks))),
      "a change without timeline",
    );
  }
  return data.changes;
}

function draw(changes, el) {
  const speech = announcer();
  const stage = make("div");
  const controls = stepControls({
    count: changes.length,
    step: 1,
    onStep: show,
    speech,
    name: (at, of) => `change ${at} of ${of}`,
  });
  const marks = legend(WORD);
  el.replaceChildren(controls.root, speech.root, stage);

  function show(at) {
    const { title, effect, pieces, before, after } = changes[at - 1];
    const lit = pieces.flatMap((piece) => piece.rows).filter((row) => row[2] && row[1]?.trim()).length;
    speech.say(
      `Change ${at}, ${title}: ${lit} lines changed or added in ${pieces.map((piece) => piece.where).join(", ")}.`,
    );
    stage.replaceChildren(
      make("p", {}, effect),
      marks,
      make(
        "div",
        { class: "tff-panels" },
        timeline(`before change ${at}`, before),
        timeline(`after change ${at}`, after),
      ),
      ...pieces.map(code),
    );
  }
  controls.go(1);
  return controls.stop;
}

/** Source side by side, near changed lines. */
function code({ where, rows }) {
  const near = (i) => rows.slice(Math.max(0, i - AROUND), i + AROUND + 1).some((row) => row[2]);
  const cell = (text, sign, lit) =>
    make(
      "td",
      { "data-lit": lit && text !== null && sign },
      lit && text !== null ? make("b", {}, sign) : "",
      make("code", { style: `padding-left: ${(text ?? "").search(/\S|$/) / 2 + 2}ch` }, (text ?? "").trim()),
    );
  const body = rows.map(([before, after, changed], i) =>
    near(i)
      ? make("tr", { "data-changed": changed }, cell(before, "−", changed), cell(after, "+", changed))
      : near(i - 1)
        ? make("tr", {}, make("td", { colspan: 2 }, "⋯"))
        : "",
  );
  return scrolling(
    where,
    make(
      "table",
      { class: "tff-code" },
      make("caption", {}, where),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "before"), make("th", { scope: "col" }, "after"))),
      make("tbody", {}, ...body),
    ),
  );
}

function timeline(title, { tokens, rows }) {
  return tokenTable(
    title,
    "step",
    tokens,
    rows.map(([marks, note], i) =>
      row(String(i + 1), [
        ...tokens.map((_, column) => mark(marks[column])),
        make("span", { class: "tff-writes" }, note),
      ]),
    ),
  );
}

export default figure("Code changes", checked, draw);
