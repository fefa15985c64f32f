// Blocks and block tables: which blocks are taken, shared and free, step by step.
import { announcer, figure, filled, legend, make, mark, need, row, stepControls, tokenTable } from "./controls.js";

/** @typedef {{users: string[], tokens: string[], marks: string}} Block marks: n or r for each token */

/** @param {{size: number, shots: {label: string, blocks: Block[], tables: Record<string, number[]>}[]}} data */
function checked(data) {
  for (const { blocks, tables } of filled(data?.shots, "steps")) {
    need(
      filled(blocks, "blocks").every(
        ({ users, tokens, marks }) =>
          users && tokens?.length <= data.size && /^[nr]*$/.test(marks) && marks.length === tokens.length,
      ),
      "a block without marks",
    );
    need(
      tables &&
        Object.values(tables)
          .flat()
          .every((i) => blocks[i]),
      "a table of unknown blocks",
    );
  }
  return data;
}

function draw({ size, shots }, el) {
  const speech = announcer(),
    stage = make("div"),
    slots = Array.from({ length: size }, (_, i) => `slot ${i + 1}`);
  const controls = stepControls({ count: shots.length, step: 1, onStep: show, speech });
  el.replaceChildren(controls.root, speech.root, legend({ n: "written in this step", r: "kept" }), stage);

  function show(at) {
    const { label, blocks, tables } = shots[at - 1];
    const count = (fits) => blocks.filter(({ users }) => fits(users.length)).length;
    speech.say(`Step ${at}: ${label}. Blocks free: ${count((n) => !n)}, shared: ${count((n) => n > 1)}.`);
    stage.replaceChildren(
      make(
        "ul",
        {},
        ...Object.entries(tables).map(([name, table]) =>
          make("li", {}, `${name} has the blocks ${table.join(", ") || "none"}`),
        ),
      ),
      tokenTable(
        "The memory",
        "block",
        slots,
        blocks.map(({ users, tokens, marks }, i) =>
          row(
            `${i}: ${users.join(", ") || "free"}`,
            slots.map((_, i) =>
              make(
                "span",
                {},
                mark(marks[i]) || make("span", { class: "tff-mark tff-later" }),
                make("bdi", {}, tokens[i] ?? "\u00a0"),
              ),
            ),
          ),
        ),
      ),
    );
  }
  controls.go(1);
  return controls.stop;
}

export default figure("Block tables", checked, draw);
