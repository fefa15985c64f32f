// The page "Talk to it": a conversation with a real LLM in the reader's browser, on one cache that is kept.
import { announcer, counted, make, shown } from "../controls.js";
import { timelineData } from "./figures_data.js";
import { loader, megabytes } from "./weights.js";

/**
 * A question and its answer; `written` is the answer as the model wrote it, `start` how many tokens stand before.
 * @typedef {{root: any, question: HTMLTextAreaElement, answer: HTMLTextAreaElement, start: number,
 *   written: {tokens: any[], text: string}}} Turn
 */

const WITHOUT_A_CACHE = 24; // tokens, at most: each costs as much as all the text before it
const MOST_SQUARES = 1e7; // of a timeline, in all its layers
const STORED = "talk"; // the reader's text, in this tab's storage

/** @param {any} form the page's own @param {{smollm2: any, has_weights: boolean}} settings */
function talk(form, { smollm2, has_weights }) {
  const { draft, system, cache, choice, temperature, top_k, seed, most, stop, retry, take_back, anew } = form.elements;
  const part = (name) => form.querySelector(`.talk-${name}`);
  const [sampling, compared, timeline] = [part("sampling"), part("compared"), part("timeline")];
  const turns = /** @type {Turn[]} */ ([]);
  let engine = /** @type {any} */ (null);
  let isRunning = false;
  let held = 0; // tokens that the cache holds
  const pace = /** @type {Record<string, number>} */ ({}); // tokens a second after the first, with the cache on and off
  let stopTimeline = () => {};

  const speech = announcer();
  part("status").append(speech.root);
  cache.options[1].text = `off: at most ${WITHOUT_A_CACHE} new tokens`;
  form.onsubmit = (event) => {
    event.preventDefault();
    alone(ask);
  };
  form.oninput = remember;
  choice.onchange = () => (sampling.hidden = sampling.disabled = choice.value === "greedy");
  stop.onclick = () => engine?.stop();
  retry.onclick = () => turns.length && form.reportValidity() && alone(again);
  take_back.onclick = () => turns.length && alone(takeBack);
  anew.onclick = () => alone(startAnew);
  recall();
  const page = new URL(document.documentElement.dataset.content_root ?? "../", location.href);
  const address = new URL(`_static/live/${smollm2.file}`, page).href;
  loader(form, { numbers: smollm2, address, isBuiltIn: has_weights, onModel, say, fail });
  form.hidden = false;

  function say(...parts) {
    speech.root.classList.remove("tff-error");
    speech.say(...parts);
  }
  function fail(error) {
    say(error.message || String(error));
    speech.root.classList.add("tff-error");
  }
  function remember() {
    const texts = turns.map(({ question, answer }) => [question.value, answer.value]);
    try {
      sessionStorage.setItem(STORED, JSON.stringify({ texts, draft: draft.value, system: system.value }));
    } catch {
      // This browser stores nothing: only a reload loses the text.
    }
  }
  function recall() {
    system.value = smollm2.chat.system;
    try {
      const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "null");
      if (!stored) return;
      [draft.value, system.value] = [stored.draft, stored.system];
      for (const [question, answer] of stored.texts) addTurn(question, answer);
    } catch {
      // Nothing is stored, or nothing that can be read.
    }
    showState();
  }
  function onModel(loaded) {
    engine = loaded;
    held = 0;
    showState();
    if (!engine) return;
    const { name, way, checked, context_length } = engine.model;
    const slow = way === "wasm" ? "" : " Without WebAssembly's SIMD, plain JavaScript works, several times slower.";
    const unsure = checked ? "" : " This browser has no way to check the file's hash.";
    say(`${name} is in this page. It reads up to ${counted(context_length, "token")}.${slow}${unsure}`);
  }
  /** Not "disabled": a disabled button would lose the keyboard's focus. */
  function showState() {
    for (const button of [form.elements.run, retry, take_back, anew])
      button.setAttribute("aria-disabled", String(isRunning || (button !== form.elements.run && !turns.length)));
    stop.setAttribute("aria-disabled", String(!isRunning));
    for (const { question, answer } of turns) question.readOnly = answer.readOnly = isRunning;
  }
  /** Do one thing at a time; what goes wrong is said, and the page goes on. */
  async function alone(work) {
    if (isRunning) return;
    isRunning = true;
    showState();
    try {
      await work();
    } catch (error) {
      fail(error);
    }
    isRunning = false;
    showState();
    remember();
  }

  function addTurn(asked, answered = "") {
    const root = part("turn").content.firstElementChild.cloneNode(true);
    const [question, answer] = root.querySelectorAll("textarea");
    [question.value, answer.value] = [asked, answered];
    part("turns").append(root);
    turns.push({ root, question, answer, written: { tokens: [], text: "" }, start: 0 });
    root.setAttribute("aria-label", `Turn ${turns.length}`);
  }
  /** The tokens of a message. What stands in its text is never special, only what is put around it. */
  async function message(role, text, written) {
    const { start, end } = smollm2.chat;
    const [first, last] = await engine.encode(start + end, { special: true });
    const isWritten = written?.text === text; // then its tokens are known, and may be other than the encoder's
    const body = isWritten
      ? [...(await engine.encode(`${role}\n`)), ...written.tokens]
      : await engine.encode(`${role}\n${text}`);
    return [first, ...body, last, ...(await engine.encode("\n"))];
  }
  /** The tokens of the conversation, up to where the newest answer begins. */
  async function prompt() {
    const tokens = await message("system", system.value);
    for (const turn of turns) {
      turn.start = tokens.length;
      tokens.push(...(await message("user", turn.question.value)));
      if (turn !== turns.at(-1)) tokens.push(...(await message("assistant", turn.answer.value, turn.written)));
    }
    const opening = await message("assistant", "");
    return [...tokens, ...opening.slice(0, -2)]; // not its end
  }

  function needModel() {
    if (!engine) throw new Error("Load the model first: the button is above.");
  }
  async function ask() {
    needModel();
    if (!draft.value.trim()) throw new Error("Your message is empty: type at least 1 character.");
    addTurn(draft.value);
    draft.value = "";
    remember();
    showState();
    await write();
  }
  async function again() {
    needModel();
    if (choice.value === "sampled") seed.value = String(Number(seed.value) + 1);
    await write();
  }
  async function takeBack() {
    const { root, question, start } = /** @type {Turn} */ (turns.pop());
    root.remove();
    draft.value = [question.value, draft.value].filter(Boolean).join("\n");
    await crop(start, "The last turn is taken back; your message stands below.");
  }
  async function startAnew() {
    for (const turn of turns.splice(0)) turn.root.remove();
    await crop(0, "A new conversation.");
  }
  async function crop(length, what) {
    const kept = Math.min(length, held);
    await engine?.crop(kept);
    const cropped = `The cache was cropped from ${counted(held, "token")} to ${kept}: nothing was computed for that.`;
    say(what, held ? ` ${cropped}` : "");
    held = kept;
  }

  /** Write the newest answer. */
  async function write() {
    const turn = turns[turns.length - 1];
    const use_cache = cache.value === "on";
    const max_new_tokens = use_cache ? Number(most.value) : Math.min(Number(most.value), WITHOUT_A_CACHE);
    const sampled = { temperature: Number(temperature.value), top_k: Number(top_k.value), seed: Number(seed.value) };
    const tokens = await prompt();
    const { context_length, n_layers } = engine.model;
    if (tokens.length + max_new_tokens > context_length)
      throw new Error(
        `The context is full: ${tokens.length} tokens and ${max_new_tokens} new ones are more than the ` +
          `${context_length} that the model reads. Take turns back, shorten them, or start anew.`,
      );
    const [end] = await engine.encode(smollm2.chat.end, { special: true });
    const ids = tokens.map(({ id }) => id);
    const options = { ids, max_new_tokens, use_cache, fresh: !use_cache, n_best: 1, stop_ids: [end.id] };
    say(`It reads ${counted(ids.length, "token")} and writes. Behind another tab it goes on.`);
    const steps = /** @type {any[]} */ ([]);
    turn.written = { tokens: [], text: "" };
    let shownAt = 0;
    for await (const step of engine.generate({ ...options, ...(choice.value === "sampled" && sampled) })) {
      steps.push(step);
      held = step.ids.length;
      if (step.chosen.id !== end.id) {
        turn.written.tokens.push(step.chosen);
        turn.written.text += step.chosen.text;
      }
      if (performance.now() - shownAt < 100) continue; // a frame is not waited for: behind another tab there is none
      shownAt = performance.now();
      show(turn, steps, use_cache);
    }
    if (!use_cache) await engine.crop((held = 0)); // nothing was kept
    if (!steps.length) return say("Stopped before the first token.");
    const isDone = steps.length === max_new_tokens || steps.at(-1).chosen.id === end.id;
    say(isDone ? "Done. " : "Stopped. ", show(turn, steps, use_cache));
    if (pace.on && pace.off)
      compared.textContent =
        `The last run with a cache wrote ${shown(pace.on, 1)} tokens a second after the first, the last one without ` +
        `${shown(pace.off, 1)}: the cache makes it ${shown(pace.on / pace.off, 1)} times as fast.`;
    await draw(timelineData([{ tokens, steps, use_cache, n_layers }]));
  }
  /** Show an answer and what it cost so far; says the latter in words. */
  function show({ root, answer, written }, steps, use_cache) {
    const [{ kept, computed, milliseconds }, ...later] = steps;
    const { ids, cache_bytes } = steps.at(-1);
    const rate = (1000 * later.length) / later.reduce((sum, step) => sum + step.milliseconds, 0);
    const n_read = steps.reduce((sum, step) => sum + step.computed, 0);
    answer.value = written.text;
    const share = root.querySelector(".tff-share");
    share.hidden = false;
    share.firstChild.hidden = !kept;
    [share.firstChild.style.flex, share.lastChild.style.flex] = [kept, computed];
    const said = [
      `Prompt: ${counted(kept + computed, "token")}, ${kept} reused, ${computed} computed.`,
      `Answer: ${counted(steps.length, "token")}, the first after ${shown(milliseconds / 1000)} s.`,
      later.length ? `Then ${shown(rate, 1)} a second.` : "",
      use_cache
        ? `Cache: ${counted(ids.length, "token")} of ${counted(cache_bytes / ids.length, "byte")}, ${megabytes(cache_bytes)}.`
        : `No cache: ${counted(n_read, "token")} read in ${counted(steps.length, "step")}.`,
    ].join(" ");
    root.querySelector("p").textContent = said;
    if (later.length) pace[use_cache ? "on" : "off"] = rate;
    return said;
  }
  async function draw(data) {
    stopTimeline();
    const { marks } = data.panels[0];
    if (marks.length * marks[0].join("").length > MOST_SQUARES) {
      timeline.textContent = "The timeline of this run is too large to draw: ask for fewer tokens, or take turns back.";
      return;
    }
    const { KVTimeline } = /** @type {any} */ (globalThis).tffLive.figures;
    const { default: widget } = await import(URL.createObjectURL(new Blob([KVTimeline], { type: "text/javascript" })));
    const el = make("div");
    timeline.replaceChildren(el);
    stopTimeline = widget.render({ model: { get: () => data }, el }) ?? (() => {});
  }
}

talk(document.getElementById("talk"), /** @type {any} */ (globalThis).tffTalk);
