// The five changes: source and timeline before and after each.
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
  row,
  scrolling,
  stepControls,
  tokenTable,
} from "./controls.js";

/**
 * @typedef {[string, string][]} Timeline a row for each step: a letter for each token, and a note
 * @typedef {[string | null, string | null, boolean]} Line before, after, and whether it changed
 * @typedef {[string, number, number, number, number]} Block as difflib has them: "equal" or another, from, to, from, to
 * @typedef {{where: string, before: string[], after: string[], blocks: Block[]}} Piece
 * @typedef {{pieces: Piece[], tokens: string[], before: Timeline, after: Timeline}} Change
 */

// What each change is called, and the experiment that shows what it is for.
const TEXTS = [
  ["a place to keep them", "One layer is given the whole text at each step. A place is there; nothing is stored yet."],
  ["store or append", "One layer is given one token at a time. Before, each stands alone; now it finds the others."],
  ["forget", "A second text begins. Before, it finds the old one's keys; after a reset, only its own."],
  [
    "positions, and the way down",
    "The whole model is given one token at a time. Before, each believes that it is the first.",
  ],
  ["feed only the new token", "The loop writes a text by itself, with use_cache=False and with use_cache=True."],
];
const AROUND = 2; // unchanged lines shown beside changed ones

/** @param {{changes: Change[]}} data */
function checked(data) {
  need(data?.changes?.length === TEXTS.length, `not ${TEXTS.length} changes`);
  for (const { pieces, before, after } of filled(data?.changes, "changes")) {
    need(
      pieces?.every((piece) =>
        piece.blocks?.every(([, , i, , j]) => i <= piece.before.length && j <= piece.after.length),
      ),
      "a change without source",
    );
    need(
      [before, after].every((each) => each?.every(([marks]) => /^[ncr.]+$/.test(marks))),
      "a change without timeline",
    );
  }
  return data.changes;
}

/** @param {Change[]} changes @param {HTMLElement} el */
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
    const { pieces, tokens, before, after } = changes[at - 1];
    const [title, effect] = TEXTS[at - 1];
    const lit = pieces.flatMap(sideBySide).filter((row) => row[2] && row[1]?.trim()).length;
    const places = pieces.map(({ where }) => where).join(", ");
    speech.say(`Change ${at}, ${title}: ${counted(lit, "line")} changed or added in ${places}.`);
    stage.replaceChildren(
      make("p", {}, effect),
      marks,
      make(
        "div",
        { class: "tff-panels" },
        timeline(`before change ${at}`, tokens, before),
        timeline(`after change ${at}`, tokens, after),
      ),
      ...pieces.map(code),
    );
  }
  controls.go(1);
  return controls.stop;
}

/** The lines of a piece side by side. @param {Piece} piece @returns {Line[]} */
function sideBySide({ before, after, blocks }) {
  return blocks.flatMap(([kind, i, iEnd, j, jEnd]) =>
    Array.from({ length: Math.max(iEnd - i, jEnd - j) }, (_, k) => [
      i + k < iEnd ? before[i + k] : null,
      j + k < jEnd ? after[j + k] : null,
      kind !== "equal",
    ]),
  );
}

/** Source side by side, near changed lines. @param {Piece} piece */
function code(piece) {
  const rows = sideBySide(piece);
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
    piece.where,
    make(
      "table",
      { class: "tff-code" },
      make("caption", {}, piece.where),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "before"), make("th", { scope: "col" }, "after"))),
      make("tbody", {}, ...body),
    ),
  );
}

function timeline(title, tokens, rows) {
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
