// The controls that all figures share. Plain DOM; text is always inserted as text.

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, string | number | boolean | EventListener>} [attributes]
 *   `onclick` and the like become listeners, `true` an empty attribute, `false` none.
 * @param {...(Node | string)} children strings become text nodes, never HTML
 * @returns {HTMLElement}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

/**
 * Play, step back, step forward, a slider and the speed.
 * @param {{count: number, step: number, onStep: (step: number) => void}} options steps count from 1
 * @returns {{root: HTMLElement, go: (step: number) => void, stop: () => void}}
 */
export function stepControls({ count, step, onStep }) {
  let timer = 0;
  const play = make("button", { type: "button", onclick: () => (timer ? stop() : start()) });
  const back = make("button", { type: "button", "aria-label": "Step back", onclick: () => move(-1) }, "◀");
  const forward = make("button", { type: "button", "aria-label": "Step forward", onclick: () => move(1) }, "▶");
  const slider = make("input", {
    type: "range", min: 1, max: count, value: step, "aria-label": "Step",
    oninput: () => { stop(); go(Number(slider.value)); },
  });
  const place = make("output", { class: "tff-place" });
  const speed = make("select", { "aria-label": "Speed", onchange: () => timer && start() },
    make("option", { value: 2000 }, "slow"),
    make("option", { value: 1000, selected: true }, "normal"),
    make("option", { value: 300 }, "fast"));

  function go(to) {
    step = Math.min(count, Math.max(1, to));
    slider.value = String(step);
    slider.setAttribute("aria-valuetext", `step ${step} of ${count}`);
    place.textContent = `step ${step} of ${count}`;
    // Not "disabled": a disabled button would lose the keyboard's focus.
    back.setAttribute("aria-disabled", String(step === 1));
    forward.setAttribute("aria-disabled", String(step === count));
    onStep(step);
  }
  function move(by) { stop(); go(step + by); }
  function start() {
    stop();
    if (step === count) go(1);
    timer = setInterval(() => {
      go(step + 1);
      if (step === count) stop();
    }, Number(speed.value));
    label();
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    label();
  }
  function label() { play.textContent = timer ? "Pause" : "Play"; }

  label();
  const root = make("div", { class: "tff-controls", role: "group", "aria-label": "Steps" },
    play, back, forward, slider, place, speed);
  return { root, go, stop };
}

/**
 * A line that screen readers speak when it changes.
 * @returns {{root: HTMLElement, say: (text: string) => void}}
 */
export function announcer() {
  const root = make("p", { class: "tff-say", "aria-live": "polite" });
  return { root, say: (text) => { root.textContent = text; } };
}

/**
 * Draw a figure, or say in its place why it cannot be drawn; the rest of the page goes on.
 * @param {HTMLElement} el
 * @param {() => (void | (() => void))} draw returns what cleans up
 */
export function guarded(el, draw) {
  el.classList.add("tff");
  try {
    return draw();
  } catch (error) {
    el.replaceChildren(make("p", { class: "tff-error" }, `This figure cannot be drawn: ${error.message}`));
  }
}
