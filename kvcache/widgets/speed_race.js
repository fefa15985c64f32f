// The race: two recorded generations in the times that they took, with their curves.
import { announcer, counted, figure, filled, make, need, quoted, stepControls } from "./controls.js";

/** @typedef {{label: string, milliseconds: number[], texts: string[]}} Run one generation: each new token's time */
const LOOKS = [
  { name: "recomputed", dash: "6 4", line: "dashed" },
  { name: "reused", dash: "none", line: "solid" },
];

/** @param {{n_prompt: number, runs: [Run, Run], same: boolean}} data without a cache first */
function checked(data) {
  need(data?.runs?.length === 2, "not two runs");
  for (const { milliseconds, texts } of data.runs) {
    need(
      filled(milliseconds, "times").every((t) => t >= 0),
      "a time below 0",
    );
    need(milliseconds.length === data.runs[0].milliseconds.length, "runs of different length");
    need(texts?.length === data.n_prompt + milliseconds.length, "too few texts");
  }
  return data;
}

/** @param {{n_prompt: number, runs: [Run, Run], same: boolean}} data @param {HTMLElement} el */
function draw({ n_prompt, runs, same }, el) {
  const total = runs[0].milliseconds.length;
  const ends = runs.map(({ milliseconds }) => {
    let sum = 0;
    return milliseconds.map((t) => (sum += t));
  });
  // A step of the race is the moment when one of the two has written a token.
  const moments = [0, ...new Set(ends.flat().sort((a, b) => a - b))];
  const speech = announcer();
  const lanes = runs.map((run, i) => makeLane(run, LOOKS[i]));
  const chart = makeChart(runs, n_prompt);
  const controls = stepControls({
    count: moments.length,
    step: moments.length,
    onStep: show,
    speech,
    name: (at) => `${(moments[at - 1] / 1000).toFixed(2)} s`,
    pause: (at) => moments[at] - moments[at - 1],
  });
  el.replaceChildren(controls.root, ...lanes.map((lane) => lane.root), speech.root, chart.root);

  function makeLane({ label, texts }, look) {
    const count = make("b", { "data-counter": label });
    const bar = make("span", { class: `tff-${look.name}` });
    const end = make("span");
    return {
      root: make(
        "div",
        {},
        make("div", {}, `${label}: `, count, ` of ${counted(total, "token")}`, end),
        make("div", { class: "tff-track" }, bar),
      ),
      update(n, seconds) {
        count.textContent = n;
        bar.hidden = n === 0;
        bar.style.width = `${(100 * n) / total}%`;
        end.replaceChildren(
          seconds ? `, done after ${inSeconds(seconds)}` : "",
          ...(n ? [", at ", quoted(texts[n_prompt + n - 1])] : []),
        );
      },
    };
  }
  function show(step) {
    const now = moments[step - 1];
    const written = ends.map((times) => times.filter((time) => time <= now).length);
    lanes.forEach((lane, i) => lane.update(written[i], written[i] === total && ends[i][total - 1] / 1000));
    chart.update(written);
    const [slow, fast] = written;
    const seconds = ends.map((times) => times[total - 1] / 1000);
    const times = seconds.map((each, i) => `${inSeconds(each)} ${runs[i].label}`).join(", ");
    const ratio = (seconds[0] / seconds[1]).toFixed(1);
    speech.say(
      slow === total && fast === total
        ? `Both are done${same ? ", with the same tokens" : ""}: ${times}, ${ratio} times as fast.`
        : `After ${(now / 1000).toFixed(2)} s: ${counted(slow, "token")} ${runs[0].label}, ${fast} ${runs[1].label}.`,
    );
  }
  controls.go(moments.length);
  return controls.stop;
}

/** A tenth is fine enough for what takes seconds. */
function inSeconds(seconds) {
  return `${seconds.toFixed(seconds < 1 ? 3 : 1)} s`;
}

/** The time of each token against its position. @param {Run[]} runs @param {number} nPrompt */
function makeChart(runs, nPrompt) {
  const total = runs[0].milliseconds.length;
  const most = Math.max(...runs.flatMap((run) => run.milliseconds), 1e-3);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const curves = runs.map((run, i) => {
    const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    path.style.cssText = `stroke: var(--${LOOKS[i].name}); stroke-dasharray: ${LOOKS[i].dash}`;
    const points = run.milliseconds.map(
      (t, x) => `${((1000 * x) / Math.max(1, total - 1)).toFixed(1)} ${(1000 - (1000 * t) / most).toFixed(1)}`,
    );
    return { path, points };
  });
  return {
    root: make(
      "div",
      { class: "tff-chart" },
      make(
        "p",
        {},
        `time per token, up to ${most.toFixed(0)} ms`,
        make("span", {}, runs.map((run, i) => `${LOOKS[i].line}: ${run.label}`).join("; ")),
      ),
      svg,
      make(
        "p",
        {},
        make("span", {}, `token ${nPrompt + 1}`),
        make("span", {}, "position in the text"),
        make("span", {}, `token ${nPrompt + total}`),
      ),
    ),
    update(written) {
      curves.forEach(({ path, points }, i) =>
        path.setAttribute("d", written[i] ? `M${points.slice(0, written[i]).join("L")}h2` : ""),
      );
    },
  };
}

export default figure("Speed race", checked, draw);
