// The steps of a live run as the data of the figures: the same JSON as the Python classes make of a recorded one.

/** @typedef {import("./generate.js").Step} Step */
/** @typedef {import("./engine.js").Token} Token the tokens of the prompt are what `encode` gave */

const allOf = (/** @type {Token[]} */ tokens, /** @type {Step[]} */ steps) => [
  ...tokens,
  ...steps.map((s) => s.chosen),
];
const labelsOf = (tokens, steps) => allOf(tokens, steps).map((token) => token.label);
const textsOf = (tokens, steps) => allOf(tokens, steps).map((token) => token.text);

/** How many tokens each step kept, read again and read for the first time. @param {Step[]} steps */
function readings(steps) {
  let n_read = steps[0].kept;
  return steps.map(({ ids, kept }) => {
    const counts = { kept, again: Math.max(0, n_read - kept), first: ids.length - Math.max(n_read, kept) };
    n_read = ids.length;
    return counts;
  });
}

/** Of Generation. @param {Token[]} tokens @param {Step[]} steps @param {{n_vocab: number}} model */
export function generationData(tokens, steps, { n_vocab }) {
  const counts = readings(steps);
  return {
    tokens: labelsOf(tokens, steps),
    texts: textsOf(tokens, steps),
    n_vocab,
    steps: steps.map(({ best, chosen }, i) => ({
      ...counts[i],
      probabilities: best.map((each) => each.probability),
      chosen: best.findIndex((each) => each.id === chosen.id),
      best: best.map((each) => each.label),
    })),
  };
}

/**
 * Of KVTimeline.
 * @param {{tokens: Token[], steps: Step[], use_cache: boolean, n_layers: number, n_heads?: number, title?: string}[]} runs
 */
export function timelineData(runs) {
  const panels = runs.map(({ tokens, steps, use_cache, n_layers, n_heads = 0, title }) => {
    const rows = readings(steps).map((n) => "r".repeat(n.kept) + "c".repeat(n.again) + "n".repeat(n.first));
    return {
      title: title ?? (use_cache ? "With a cache" : "Without a cache"),
      use_cache,
      tokens: labelsOf(tokens, steps),
      texts: textsOf(tokens, steps),
      n_prompt: tokens.length,
      marks: Array.from({ length: n_layers }, () => rows),
      vectors: Array.from({ length: n_layers }, (_, layer) => steps.map((step) => step.vectors?.[layer] ?? null)),
      n_heads: steps[0].vectors ? n_heads : 0,
    };
  });
  return { panels };
}

/** Of SpeedRace; of unequal runs the beginning that both have. @param {Token[]} tokens */
export function raceData(tokens, /** @type {Step[]} */ without, /** @type {Step[]} */ cached) {
  const n = Math.min(without.length, cached.length);
  const run = (label, /** @type {Step[]} */ steps) => ({
    label,
    milliseconds: steps.slice(0, n).map((step) => step.milliseconds),
    texts: textsOf(tokens, steps.slice(0, n)),
  });
  const runs = [run("without a cache", without), run("with a cache", cached)];
  const same = without.slice(0, n).every((step, i) => step.chosen.id === cached[i].chosen.id);
  return { n_prompt: tokens.length, runs, same };
}

/** Of BreakIt. @param {{name: string, tokens: Token[], steps: Step[], right: Step[]}[]} runs right: without a bug */
export function breakItData(runs) {
  return {
    runs: runs.map(({ name, tokens, steps, right }) => ({
      name,
      n_prompt: tokens.length,
      texts: textsOf(tokens, steps),
      right: textsOf(tokens, right.slice(0, steps.length)),
      steps: steps.map(({ keys, error }) => ({ keys, error })),
    })),
  };
}
