// Shows the book's widgets in a static page: no kernel, no html-manager, no other host.
//
// myst-nb writes the state of all widgets into the page, and a small script where each view belongs.
// A widget's module stands in its state as text; importing it from a blob: address also works from
// file://. The script may be included twice, so the second run does nothing.
(() => {
  "use strict";
  if (window.tffMounted) return;
  window.tffMounted = true;

  const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';

  /** The part of a widget's model that a view needs, without a kernel behind it. */
  class StaticModel extends EventTarget {
    constructor(state) { super(); this.state = { ...state }; this.listeners = new Map(); }
    get(name) { return this.state[name]; }
    set(name, value) { this.state[name] = value; this.dispatchEvent(new Event(`change:${name}`)); }
    on(name, callback) { this.listeners.set(callback, () => callback()); this.addEventListener(name, this.listeners.get(callback)); }
    off(name, callback) { this.removeEventListener(name, this.listeners.get(callback)); }
    save_changes() {}
    send() {}
  }

  const modules = new Map();
  /** Import a module from its text, once for each text. */
  function importText(text) {
    if (!modules.has(text)) {
      const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
      modules.set(text, import(address));
    }
    return modules.get(text);
  }

  const styles = new Set();
  function addStyle(text) {
    if (!text || styles.has(text)) return;
    styles.add(text);
    const style = document.createElement("style");
    style.textContent = text;
    document.head.append(style);
  }

  async function mount(view, states) {
    const { model_id: id } = JSON.parse(view.textContent);
    const entry = states[id];
    if (entry?.model_module !== "anywidget") return;
    const el = document.createElement("div");
    view.after(el);
    try {
      addStyle(entry.state._css);
      const { default: widget } = await importText(entry.state._esm);
      const model = new StaticModel(entry.state);
      await widget.initialize?.({ model });
      await widget.render({ model, el });
      addStill(id, el);
    } catch (error) {
      el.className = "tff-error";
      el.textContent = `This figure cannot be shown: ${error.message}`;
    }
  }

  /** The still picture of the noscript element, for print. Its HTML is the book's own. */
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
  for (const view of document.querySelectorAll(VIEW)) mount(view, state);
})();
