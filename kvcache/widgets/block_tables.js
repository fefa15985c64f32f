// Blocks and block tables: which blocks are taken, shared and free, step by step.
import { announcer, figure, filled, legend, make, mark, need, row, stepControls, tokenTable } from "./controls.js";

/**
 * A shot has the blocks of the memory; the block table of each sequence; and how many tokens each stores.
 * @typedef {{users: string[], tokens: string[]}} Block
 * @typedef {{label: string, blocks: Block[], tables: Record<string, number[]>, lengths: Record<string, number>}} Shot
 */
/** @type {Record<string, string>} */
const MEANING = { n: "computed in this step", k: "copied in this step", r: "kept" };

/** @param {{size: number, shots: Shot[]}} data */
function checked(data) {
  for (const { blocks, tables, lengths } of filled(data?.shots, "steps")) {
    const isWhole = ({ users, tokens }) => users && tokens?.length <= data.size;
    need(filled(blocks, "blocks").every(isWhole), "a block that is not whole");
    need(tables && lengths, "no tables");
    need(
      Object.values(tables).every((table) => table.every((i) => blocks[i])),
      "a table of unknown blocks",
    );
  }
  return data;
}

/** @param {{size: number, shots: Shot[]}} data @param {HTMLElement} el */
function draw({ size, shots }, el) {
  let [chosen, at] = ["", 1]; // the sequence whose blocks are shown
  const speech = announcer();
  const sequences = make("ul");
  const memory = make("div", { class: "tff-blocks" });
  const slots = Array.from({ length: size }, (_, i) => `slot ${i}`);
  const controls = stepControls({ count: shots.length, step: 1, onStep: show, speech });
  const marks = shots.map((shot, i) => shot.blocks.map((_, block) => marksOf(block, shot, shots[i - 1], size)));
  const used = Object.entries(MEANING).filter(([letter]) => marks.flat(2).includes(letter));
  const hint = make("p", {}, "The block table of each sequence; choose one to see it in the memory:");
  el.replaceChildren(controls.root, speech.root, legend(Object.fromEntries(used)), hint, sequences, memory);

  function show(step) {
    at = step;
    const { label, blocks, tables } = shots[at - 1];
    const count = (fits) => blocks.filter(({ users }) => fits(users.length)).length;
    speech.say(`Step ${at}: ${label}. Blocks free: ${count((n) => !n)}, shared: ${count((n) => n > 1)}.`);
    const buttons = Object.entries(tables).map(([name, table]) => {
      const pressed = String(name === chosen);
      const text = `${name}: ${table.join(", ") || "no blocks"}`;
      return make("button", { "aria-pressed": pressed, onclick: () => choose(name) }, text);
    });
    sequences.replaceChildren(...buttons.map((button) => make("li", {}, button)));
    const rows = blocks.map((block, i) => blockRow(block, i, tables[chosen] ?? []));
    memory.replaceChildren(tokenTable("The memory", "block", slots, rows));
  }
  function choose(name) {
    chosen = chosen === name ? "" : name;
    const place = Object.keys(shots[at - 1].tables).indexOf(name);
    show(at);
    sequences.querySelectorAll("button")[place].focus();
  }
  /** A row of the memory; `table` has the blocks of the chosen sequence. */
  function blockRow({ users, tokens }, i, table) {
    const part = table.indexOf(i) + 1;
    const notes = [...(users.length > 1 ? ["shared"] : []), ...(part ? [`part ${part} of ${chosen}`] : [])];
    const head = make("span", {}, `${i}: ${users.join(", ") || "free"}`);
    if (notes.length) head.append(make("small", {}, notes.join(", ")));
    const slot = (_, j) => {
      const square = mark(marks[at - 1][i][j], MEANING) || make("span", { class: "tff-mark tff-later" });
      return make("span", {}, square, make("bdi", {}, tokens[j] ?? "\u00a0"));
    };
    const line = row(head, slots.map(slot), part > 0);
    line.toggleAttribute("data-shared", users.length > 1);
    return line;
  }
  controls.go(1);
  return controls.stop;
}

/**
 * A letter for each token: kept where it lay there before; copied where a user of the block stored it elsewhere
 * before; else computed.
 * @param {number} block
 * @param {Shot} now
 * @param {Shot | undefined} before
 * @returns {string[]}
 */
function marksOf(block, now, before, size) {
  const { users, tokens } = now.blocks[block];
  const old = before?.blocks[block];
  const stayed = old?.users.some((name) => users.includes(name));
  return tokens.map((token, i) => {
    if (stayed && old?.tokens[i] === token) return "r";
    const place = (name) => now.tables[name].indexOf(block) * size + i;
    return users.some((name) => place(name) < (before?.lengths[name] ?? 0)) ? "k" : "n";
  });
}

export default figure("Block tables", checked, draw);
