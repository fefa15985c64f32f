// The ring: which slot each new token of a text overwrites.
import { announcer, counted, figure, filled, legend, make, mark, need, quoted, stepControls } from "./controls.js";

/**
 * After a step: the number of the token in each slot, the slot that was written, and the token that lay there before.
 * @typedef {{slots: (number | null)[], written: number, gone: number | null}} Step
 * @typedef {{tokens: string[], steps: Step[]}} Data
 */
const MEANING = { n: "written in this step", r: "kept", o: "overwritten: no longer seen" };

/** @param {Data} data */
function checked(data) {
  need(filled(data?.steps, "steps").length === data.tokens?.length, "too few tokens");
  const n = filled(data.steps[0].slots, "slots").length;
  const known = (token) => token === null || data.tokens[token] !== undefined;
  for (const { slots, written, gone } of data.steps)
    need(slots?.length === n && slots.every(known) && known(gone) && written in slots, "a step of another ring");
  return data;
}

/** @param {Data} data @param {HTMLElement} el */
function draw({ tokens, steps }, el) {
  const speech = announcer();
  const n = steps[0].slots.length;
  const text = make("ol", { class: "tff-chips", "aria-label": "The text" });
  const middle = make("p", {});
  const ring = make("ol", { class: "tff-ring", style: `--slots: ${n}`, "aria-label": "The ring" });
  const controls = stepControls({ count: steps.length, step: steps.length, onStep: show, speech });
  el.replaceChildren(
    controls.root,
    legend(MEANING),
    make("div", { class: "tff-panels" }, make("div", { class: "tff-circle" }, ring, middle), text),
    speech.root,
  );

  function show(at) {
    const { slots, written, gone } = steps[at - 1];
    const token = at - 1;
    text.replaceChildren(
      ...tokens.slice(0, at).map((label, i) => {
        const letter = i === token ? "n" : slots.includes(i) ? "r" : "o";
        return make("li", {}, mark(letter, MEANING), make("bdi", {}, label), make("small", {}, String(i)));
      }),
    );
    ring.replaceChildren(
      ...slots.map((held, slot) => {
        const turn = (2 * Math.PI * slot) / n;
        const place = `left: ${50 + 39 * Math.sin(turn)}%; top: ${50 - 39 * Math.cos(turn)}%`;
        const square =
          held === null ? make("span", { class: "tff-mark" }) : mark(slot === written ? "n" : "r", MEANING);
        const name = held === null ? "empty" : make("bdi", {}, tokens[held]);
        return make("li", { style: place }, make("small", {}, `slot ${slot}`), square, name);
      }),
    );
    middle.replaceChildren(`token ${token}`, make("br"), "goes into", make("br"), make("b", {}, `slot ${written}`));
    const old = gone === null ? ["which was empty. "] : [`where token ${gone}, `, quoted(tokens[gone]), ", lay. "];
    const seen = slots.filter((held) => held !== null).length;
    const sees = `It sees ${counted(seen, "token")}, itself among them.`;
    speech.say(`Token ${token}, `, quoted(tokens[token]), `, goes into slot ${written}, `, ...old, sees);
  }
  controls.go(steps.length);
  return controls.stop;
}

export default figure("Ring", checked, draw);
