// A prompt of the reader's own: for the small model, here in the page; or for Python, where a kernel is.
import { announcer, counted, figure, make, need, picker, row, tokenTable } from "./controls.js";

/**
 * `live` names the figures that the page can show by itself, `cache` is what is chosen at first.
 * @typedef {{prompt: string, max_new_tokens: number, live: string[], cache: string, note: string}} Data
 * One generation: what the engine is asked for, and the steps that have come.
 * @typedef {{name: string, use_cache: boolean, bug?: string, steps: any[]}} Run
 * The engine with the small model, and what makes the data of figures from its steps.
 * @typedef {{engine: any, makers: any}} Live
 */

/** @type {Record<string, boolean[]>} */
const CACHES = { off: [false], on: [true], "off and on": [false, true] };
/** @type {Record<string, string>} */
const BUGS = {
  "the stale cache": "stale",
  "positions that stand still": "standing",
  "a mask that forgets the offset": "offset",
  "the whole text again": "twice",
  "none: the correct cache": "none",
};
const MOST = 200; // new tokens
const FEW = 12; // up to so many the timeline has the keys and values themselves
const PAUSE = 150; // milliseconds from one drawing to the next, at least
const UNKNOWN =
  "Unknown: this token is in none of the texts from which the small model learned. It has only zeros for it, so it " +
  "notices that some token stands there, but not which.";

/** The data of each figure, or null where one more run is needed. @type {Record<string, Function>} */
const FIGURES = {
  Generation: ({ engine, makers }, tokens, runs) => makers.generationData(tokens, runs.at(-1).steps, engine.model),
  KVTimeline({ engine, makers }, tokens, runs) {
    const { n_layers, n_kv_heads } = engine.model;
    return makers.timelineData(runs.map((run) => ({ ...run, tokens, n_layers, n_heads: n_kv_heads })));
  },
  SpeedRace: ({ makers }, tokens, [slow, fast]) => fast && makers.raceData(tokens, slow.steps, fast.steps),
  BreakIt: ({ makers }, tokens, [right, broken]) =>
    broken && makers.breakItData([{ ...broken, tokens, right: right.steps }]),
};

/** @param {Data} data */
function checked(data) {
  need(typeof data?.prompt === "string" && Number.isInteger(data.max_new_tokens), "no prompt or number");
  need(Array.isArray(data.live) && data.live.every((name) => FIGURES[name]), "figures that are none");
  need(CACHES[data.cache], "no choice of a cache");
  return data;
}

/** @param {Data} data @param {HTMLElement} el @param {any} model that of anywidget; where a kernel is, it can send */
function draw(data, el, model) {
  const { live } = data;
  const here = !model.send;
  if (here && !live.length) return el.replaceChildren(make("p", {}, data.note));

  const prompt = make("textarea", { rows: 3, spellcheck: "false", oninput: keep }, data.prompt);
  const number = make("input", { type: "number", min: 1, max: MOST, value: data.max_new_tokens, oninput: keep });
  const cache = picker("Cache", Object.keys(CACHES).slice(0, live.includes("KVTimeline") ? 3 : 2), () => {});
  cache.select.value = data.cache;
  const bug = picker("Bug", Object.keys(BUGS), () => {});
  const choice = live.includes("BreakIt") ? bug.root : live.includes("SpeedRace") ? "" : cache.root;
  const button = make("button", { type: "button", onclick: () => (running ? stop() : run()) }, "Run");
  const speech = announcer();
  const text = make("p");
  const tokens = make("div");
  const places = live.map((name) => ({ name, root: make("div"), leave: () => {} }));
  const work = make("div");
  el.replaceChildren(
    make("label", { class: "tff-prompt" }, "Prompt ", prompt),
    make(
      "div",
      { class: "tff-controls" },
      make("label", { class: "tff-field" }, "New tokens ", number),
      here ? choice : "",
      button,
    ),
    speech.root,
    text,
    tokens,
    ...places.map((place) => place.root),
    work,
  );
  /** @type {Promise<Live> | null} */
  let started = null;
  let [running, stopped] = [false, false];
  const start = () => (started ??= startEngine());
  if (here) el.addEventListener("focusin", () => start().catch(() => {}), { once: true });
  else model.on("change:said", () => speech.say(model.get("said") || "Done: it stands below."));

  /** What is typed stays, also where the control is shown again. */
  function keep() {
    model.set?.("data", { ...data, prompt: prompt.value, max_new_tokens: number.valueAsNumber || data.max_new_tokens });
    model.save_changes?.();
  }

  function stop() {
    stopped = true;
    started?.then(({ engine }) => engine.stop()).catch(() => {});
  }

  async function run() {
    const n = number.valueAsNumber;
    if (!prompt.value) return speech.say("The prompt is empty: type at least 1 character.");
    if (!(Number.isInteger(n) && n >= 1 && n <= MOST)) {
      return speech.say(`The number of new tokens is “${number.value}”: choose a whole number from 1 to ${MOST}.`);
    }
    if (!here) return model.send({ prompt: prompt.value, max_new_tokens: n });
    [running, stopped] = [true, false];
    button.textContent = "Stop";
    speech.say("Loading the small model …");
    try {
      speech.say(await write(await start(), prompt.value, n));
    } catch (error) {
      speech.say(/** @type {Error} */ (error).message);
      started?.then(({ engine }) => engine.close()).catch(() => {});
      started = null; // the next run tries again
    }
    running = false;
    button.textContent = "Run";
  }

  /** Let the small model write, and show it; gives what to say at the end. @param {Live} parts */
  async function write(parts, typed, n) {
    const found = await parts.engine.encode(typed);
    const most = parts.engine.model.context_length;
    const asked = `${counted(found.length, "token")} in the prompt + ${n} new ones`;
    if (found.length + n > most) throw new Error(`${asked} exceed the context of ${most}: shorten one of them.`);
    tokens.replaceChildren(...tokenRow(found));
    const ids = found.map((token) => token.id);
    const options = { ids, max_new_tokens: n, vectors: live.includes("KVTimeline") && n <= FEW };
    const runs = planned(live, cache.select.value, bug.select.value);
    let drawn = 0;
    if (live.includes("SpeedRace")) {
      // The first steps do not count: the browser has yet to compile the loops.
      for await (const _ of parts.engine.generate({ ids, max_new_tokens: Math.min(5, n), use_cache: false }));
    }
    try {
      for (const { name, use_cache, bug, steps } of runs) {
        if (stopped) break;
        speech.say(`${name}: the model writes …`);
        for await (const step of parts.engine.generate({ ...options, use_cache, bug })) {
          steps.push(step);
          text.replaceChildren(make("bdi", {}, typed + steps.map((each) => each.chosen.text).join("")));
          if (performance.now() - drawn < PAUSE) continue;
          await drawAll(parts, found, runs, false);
          drawn = performance.now();
        }
      }
    } finally {
      await drawAll(parts, found, runs, true);
    }
    const counts = runs.map(({ name, steps }) => `${name}: ${counted(steps.length, "new token")}.`);
    return `${stopped ? "Stopped" : "Done"}. ${counts.join(" ")}`;
  }

  /** Show what the runs have found so far. A figure that the reader is using waits for the end. */
  async function drawAll(parts, found, runs, done) {
    const begun = runs.filter((run) => run.steps.length);
    for (const place of begun.length ? places : []) {
      const inUse = place.root.contains(document.activeElement);
      if (inUse && !done) continue;
      place.leave();
      place.leave = await drawFigure(place.root, place.name, FIGURES[place.name](parts, found, begun));
      place.root.setAttribute("aria-busy", String(!done)); // then what it says is not spoken
      if (inUse) place.root.querySelector("button")?.focus();
    }
    const both = live.includes("SpeedRace") && begun.length === 2 && done;
    work.replaceChildren(both ? workTable(begun) : "");
  }
}

/** The engine with the small model: all that it needs is loaded now. @returns {Promise<Live>} */
async function startEngine() {
  const folder = `${document.documentElement.dataset.content_root ?? "./"}_static/live/`;
  if (!liveParts()?.page) {
    await new Promise((resolve, reject) => {
      const problem = "The live model could not be loaded; look at your connection, and try again.";
      const onerror = () => reject(new Error(problem));
      document.head.append(make("script", { src: `${folder}live.js`, onload: resolve, onerror }));
    });
  }
  const makers = await importText(liveParts().page);
  const engine = await makers.startEngine();
  await engine.loadSmall();
  return { engine, makers };
}

/** What live.js has brought: the texts of modules. */
const liveParts = () => /** @type {any} */ (globalThis).tffLive;

/** A module that is there as text. From a blob: address it also comes where the page is a file. */
function importText(text) {
  const address = addresses.get(text) ?? URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  addresses.set(text, address);
  return import(address);
}
const addresses = new Map(); // text -> its blob:

/** Draw a figure, at its newest step, or nothing; gives what ends it. @param {HTMLElement} root */
async function drawFigure(root, name, shown) {
  const { default: widget } = await importText(liveParts().figures[name]);
  const el = make("div");
  root.replaceChildren(shown ? el : "");
  const leave = shown && widget.render({ model: { get: () => shown }, el });
  const slider = el.querySelector('[type="range"]');
  if (slider instanceof HTMLInputElement) {
    slider.value = slider.max;
    slider.dispatchEvent(new Event("input"));
  }
  return leave ?? (() => {});
}

/** What to run: both ways, or a bug after what is right, or as it was chosen. @returns {Run[]} */
function planned(live, cache, bug) {
  const run = (use_cache, name = use_cache ? "With a cache" : "Without a cache") => ({ name, use_cache, steps: [] });
  if (live.includes("BreakIt")) return [run(false, "What is right"), { ...run(true, `Bug: ${bug}`), bug: BUGS[bug] }];
  return (live.includes("SpeedRace") ? [false, true] : CACHES[cache]).map((use_cache) => run(use_cache));
}

/** The tokens of a prompt, and in words which of them the model does not know. */
function tokenRow(found) {
  const chips = found.map(({ id, label, known }) => {
    const notes = known ? [id] : [id, "unknown to the small model"];
    return make("li", {}, make("bdi", {}, label), ...notes.map((note) => make("small", {}, note)));
  });
  const list = make("ol", { class: "tff-chips", "aria-label": "The tokens of the prompt, with their ids" }, ...chips);
  return found.every(({ known }) => known) ? [list] : [list, make("p", {}, UNKNOWN)];
}

/** What both generations took. @param {Run[]} runs */
function workTable(runs) {
  const line = (name, of, digits = 0) => {
    const [slow, fast] = runs.map(({ steps }) => steps.reduce((sum, step) => sum + of(step), 0));
    const texts = [slow, fast].map((sum) => sum.toLocaleString("en", { maximumFractionDigits: digits }));
    return row(name, [...texts, `${(slow / fast).toFixed(1)}×`]);
  };
  const lines = [
    line("passes", () => 1),
    line("tokens read", (step) => step.computed),
    line("multiply-adds, 10⁶", (step) => step.multiply_adds / 1e6, 1),
    line("milliseconds", (step) => step.milliseconds, 1),
  ];
  return tokenTable("The work of both", "in all", ["cache off", "cache on", "ratio"], lines);
}

export default figure("A prompt of your own", checked, draw);
