// The controls that all figures share. Plain DOM; text is always inserted as text.

/**
 * Make an element. Strings become text nodes, never HTML.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number | boolean | ((event: any) => void)>} attributes
 *   `onclick` and the like become listeners, `true` an empty attribute, `false` none.
 * @param {...(Node | string | number)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function")
      element.addEventListener(name.slice(2), (event) => guarded(element.closest(".tff"), () => value(event)));
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/**
 * Do some work; what goes wrong is said in the figure's place, and the page goes on.
 * @param {Element | null} el
 * @param {() => any} work
 */
function guarded(el, work) {
  try {
    return work();
  } catch (error) {
    el?.replaceChildren(
      make("p", { class: "tff-error" }, `This figure cannot be drawn: ${/** @type {Error} */ (error).message}`),
    );
  }
}

/**
 * Play, step back, step forward, a slider and the speed. Steps count from 1. `onStep` draws a step, `name` says what
 * it is called, `pause` how many milliseconds it stays at speed 1; `speech` is kept quiet while steps fly past.
 * @param {{count: number, step: number, onStep: (step: number) => void, speech: ReturnType<typeof announcer>,
 *   name?: (at: number, of: number) => string, pause?: (at: number) => number}} settings
 */
export function stepControls({
  count,
  step,
  onStep,
  name = (at, of) => `step ${at} of ${of}`,
  pause = () => 1000,
  speech,
}) {
  let frame = 0;
  const play = make("button", { type: "button", onclick: () => (frame ? stop() : start()) }, "Play");
  const back = make("button", { type: "button", "aria-label": "Step back", onclick: () => move(-1) }, "◀");
  const forward = make("button", { type: "button", "aria-label": "Step forward", onclick: () => move(1) }, "▶");
  const slider = make("input", {
    type: "range",
    min: 1,
    max: count,
    value: step,
    "aria-label": "Step",
    oninput: () => {
      stop();
      go(Number(slider.value));
    },
  });
  const place = make("output", { class: "tff-place" });
  const speeds = [
    [0.25, "¼×"],
    [0.5, "½×"],
    [1, "1×"],
    [4, "4×"],
    [16, "16×"],
  ];
  const speed = make(
    "select",
    { "aria-label": "Speed" },
    ...speeds.map(([value, text]) => make("option", { value, selected: value === 1 }, text)),
  );

  function go(to) {
    step = Math.min(count, Math.max(1, to));
    slider.value = String(step);
    slider.setAttribute("aria-valuetext", name(step, count));
    place.textContent = name(step, count);
    // Not "disabled": a disabled button would lose the keyboard's focus.
    back.setAttribute("aria-disabled", String(step === 1));
    forward.setAttribute("aria-disabled", String(step === count));
    onStep(step);
  }
  function move(by) {
    stop();
    go(step + by);
  }
  function start() {
    if (step === count) go(1);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches; // then: one jump a second
    let last = performance.now(),
      shown = last,
      owed = 0;
    speech.quiet(pause(step) / Number(speed.value) < 1000);
    play.textContent = "Pause";
    frame = requestAnimationFrame(function tick(now) {
      frame = requestAnimationFrame(tick);
      owed += Math.min(1000, Math.max(0, now - last)) * Number(speed.value);
      last = now;
      if (calm && now - shown < 1000) return;
      if (root.parentElement?.querySelector(":scope > :not(.tff-controls) :focus") !== null) return stop();
      let to = step;
      while (to < count && owed >= pause(to)) owed -= pause(to++);
      if (to === step && step < count) return;
      shown = now;
      guarded(root.parentElement, () => go(to));
      if (step === count) stop();
    });
  }
  function stop() {
    cancelAnimationFrame(frame);
    frame = 0;
    play.textContent = "Play";
    speech.quiet(false);
  }
  /** Another number of steps, and another place among them. */
  function resize(toCount, toStep) {
    stop();
    slider.max = String((count = toCount));
    go(toStep);
  }
  const root = make(
    "div",
    { class: "tff-controls", role: "group", "aria-label": "Steps" },
    play,
    back,
    forward,
    slider,
    place,
    speed,
  );
  return { root, go, stop, resize };
}

/**
 * A labelled choice from a list.
 * @param {string} label
 * @param {string[]} options
 * @param {(index: number) => void} onPick
 */
export function picker(label, options, onPick) {
  const select = make(
    "select",
    { onchange: () => onPick(select.selectedIndex) },
    ...options.map((option) => make("option", {}, option)),
  );
  return { root: make("label", { class: "tff-field" }, `${label} `, select), select };
}

/** A line that screen readers speak when it changes. */
export function announcer() {
  const root = make("p", { class: "tff-say", "aria-live": "polite" });
  return {
    root,
    say(...parts) {
      const line = make("p", {}, ...parts);
      if (root.textContent !== line.textContent) root.replaceChildren(...line.childNodes);
    },
    quiet: (on) => root.setAttribute("aria-live", on ? "off" : "polite"),
  };
}

/** A box that scrolls sideways by itself, also by keyboard. */
export function scrolling(label, ...children) {
  const more = () => box.toggleAttribute("data-more-left", box.scrollLeft > 4);
  const attributes = { class: "tff-scroll", tabindex: 0, role: "group", "aria-label": label, onscroll: more };
  const box = make("div", attributes, ...children);
  return box;
}

/** A number of things, in words: "1 token", "2 tokens". @param {number | bigint} n @param {string} thing */
export function counted(n, thing) {
  return `${n.toLocaleString("en")} ${thing}${Number(n) === 1 ? "" : "s"}`;
}

/** A text in quotes, in its own direction; of a long one the end. */
export function quoted(text) {
  const letters = [...text];
  const end = letters.length > 60 ? `…${letters.slice(-60).join("")}` : text;
  return make("span", {}, "“", make("bdi", {}, end), "”");
}

/** A number as text, with a real minus sign. */
export function shown(number, digits = 2) {
  return number.toFixed(digits).replace("-", "−");
}

/** Where a key leads to: rows down and columns to the right, without end for Home and End; or null. */
export function arrow(event) {
  const by = {
    ArrowDown: [1, 0],
    ArrowUp: [-1, 0],
    ArrowRight: [0, 1],
    ArrowLeft: [0, -1],
    Home: [0, -Infinity],
    End: [0, Infinity],
  }[event.key];
  if (by) event.preventDefault();
  return by ?? null;
}

/** Stop with a message, unless the data is as it must be. */
export function need(fine, fault) {
  if (!fine) throw new Error(`its data has ${fault}.`);
}

/** A list with something in it. */
export function filled(list, name) {
  need(Array.isArray(list) && list.length, `no ${name}`);
  return list;
}

/** The marks of the book. @type {Record<string, string>} */
export const WORD = { n: "new", c: "recomputed", r: "reused" };

/** @type {Record<string, string>} */
const LOOK = { ...WORD, k: "copied", o: "later" }; // the class of each mark

/** A square with a mark, with its meaning for screen readers; nothing for another letter. */
export function mark(letter, meanings = WORD) {
  return meanings[letter]
    ? make("span", { class: `tff-mark tff-${LOOK[letter]}`, role: "img", "aria-label": meanings[letter] })
    : "";
}

/** A row of a table. @param {(Node | string)[]} cells */
export function row(head, cells, current = false) {
  return make(
    "tr",
    { "data-current": current },
    make("th", { scope: "row" }, head),
    ...cells.map((cell) => make("td", {}, cell)),
  );
}

/** A table with a column for each token. */
export function tokenTable(caption, corner, tokens, rows) {
  const head = (token) => make("th", { scope: "col" }, make("span", {}, make("bdi", {}, token)));
  const box = scrolling(
    caption,
    make(
      "table",
      { class: tokens.length > 4 && "tff-many" },
      make("caption", {}, make("span", {}, caption)),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, corner), ...tokens.map(head))),
      make("tbody", {}, ...rows),
    ),
  );
  if (box.querySelector("button")) box.tabIndex = -1; // its buttons are reached already
  return box;
}

/** Scroll a box sideways, no further than needed, until a cell of its table can be seen. */
export function reveal(box, cell) {
  box.scrollLeft = Math.max(0, cell.offsetLeft + cell.offsetWidth + 8 - box.clientWidth);
}

/** What the marks mean. @param {Record<string, string>} meanings a text for each letter */
export function legend(meanings) {
  return make(
    "ul",
    { class: "tff-legend" },
    // Only the text is spoken: it says the same.
    ...Object.entries(meanings).map(([letter, text]) =>
      make("li", {}, make("span", { class: `tff-mark tff-${LOOK[letter]}` }), text),
    ),
  );
}

/**
 * A widget for anywidget, with a name for screen readers.
 * @param {(data: any) => any} checked throws if the data is not as it must be
 * @param {(data: any, el: HTMLElement, model: any) => (() => void) | void} draw returns what cleans up
 */
export function figure(name, checked, draw) {
  return {
    render({ model, el }) {
      el.classList.add("tff");
      el.setAttribute("role", "group");
      el.setAttribute("aria-label", name);
      return guarded(el, () => draw(checked(model.get("data")), el, model));
    },
  };
}
