// Shows the book's widgets in a static page: no kernel, no html-manager, no other host.
// myst-nb writes the state of all widgets into the page, and a small script where each view belongs.
// A module stands there as text; importing it from a blob: address also works from file://.
(() => {
  "use strict";
  if ("tffMounted" in window) return; // the page may include this script twice
  Object.assign(window, { tffMounted: true });

  const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';

  const importText = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));

  const styles = new Set();
  function addStyle(text) {
    if (styles.has(text)) return;
    styles.add(text);
    const style = document.createElement("style");
    style.textContent = text;
    document.head.append(style);
  }

  async function mount(view, states) {
    const { model_id: id } = JSON.parse(view.textContent);
    const entry = states[id];
    if (entry?.model_module !== "anywidget") return; // a place that only a kernel fills
    const el = document.createElement("div");
    view.after(el);
    try {
      addStyle(entry.state._css);
      const { default: widget } = await importText(entry.state._esm);
      const model = { get: (name) => entry.state[name], on() {}, off() {} }; // nothing changes: there is no kernel
      await widget.initialize?.({ model });
      await widget.render({ model, el });
      addStill(id, el);
    } catch (error) {
      el.className = "tff-error";
      el.textContent = `This figure cannot be shown: ${/** @type {Error} */ (error).message}`;
    }
  }

  /** What the noscript element holds: a still picture for print. It is the book's own HTML. */
  function addStill(id, el) {
    const noscript = document.querySelector(`noscript[data-still-of="${CSS.escape(id)}"]`);
    if (!noscript) return;
    const still = document.createElement("div");
    still.className = "tff-still";
    still.innerHTML = noscript.textContent;
    el.after(still);
  }

  const stateScript = document.querySelector(STATE);
  if (!stateScript) return;
  const { state } = JSON.parse(stateScript.textContent);
  const views = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(VIEW));
  for (const view of views) {
    mount(view, state).finally(() => {
      view.dataset.shown = "";
    });
  }
})();
