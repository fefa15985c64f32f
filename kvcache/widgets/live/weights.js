// The weights of the real LLM: from this site, from what this device keeps, or from a file of the reader's.
import { startEngine } from "./engine.js";

const SHELF = "time-flies-fast"; // the name of our part of the browser's Cache Storage

/** A number of bytes, as readers know it. */
export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0)} MB`;
}

/**
 * Let the form's buttons load the model, keep its file on this device and remove it from there.
 * @param {any} form
 * @param {{numbers: any, address: string, isBuiltIn: boolean, onModel: (engine: any) => void,
 *   say: (text: string) => void, fail: (error: any) => void}} settings
 *   address: of the file on this site; isBuiltIn: whether it lies there; onModel: called with the engine that has
 *   read the weights, and with null when it is let go
 */
export function loader(form, { numbers, address, isBuiltIn, onModel, say, fail }) {
  const { load, stop_loading, shelve, file } = form.elements;
  const loading = form.querySelector(".talk-loading");
  const [progress, received] = loading.children;
  const isServed = address.startsWith("http");
  let engine = /** @type {any} */ (null);
  let weights = /** @type {Blob | null} */ (null); // what was read
  let stopper = /** @type {AbortController | null} */ (null); // while it loads
  let isKept = false;

  load.onclick = () => read(null);
  stop_loading.onclick = () => stopper?.abort();
  shelve.onclick = () => (isKept ? remove() : keep());
  file.onchange = () => file.files.length && read(file.files[0]);
  form.querySelector(".talk-from-disk").hidden = isServed;
  form.querySelector(".talk-not-here").hidden = !isServed || isBuiltIn;
  show();

  /** What this device keeps, or undefined; some browsers keep nothing. */
  async function kept() {
    try {
      return isServed ? await caches.match(address) : undefined;
    } catch {
      return undefined;
    }
  }
  /** Show what can be done now. */
  async function show() {
    isKept = Boolean(await kept());
    const from = isKept ? "kept on this device" : "from this site";
    load.textContent = `Load SmolLM2: ${megabytes(numbers.bytes)} ${from}, into this page`;
    load.disabled = load.hidden = !isKept && !(isServed && isBuiltIn);
    shelve.textContent = isKept ? "Remove it from this device" : "Keep it on this device";
    shelve.disabled = shelve.hidden = !isServed || !(isKept || weights);
    loading.hidden = !stopper;
  }
  function onProgress({ received: bytes, total }) {
    progress.max = total;
    progress.value = bytes;
    received.textContent = `${megabytes(bytes)} of ${megabytes(total)}`;
  }
  function letGo() {
    engine?.close();
    engine = weights = null;
    onModel(null);
  }

  /** Read a chosen file; without one, what is kept, or else what lies on this site. */
  async function read(chosen) {
    if (stopper) return;
    const { signal } = (stopper = new AbortController());
    const onShelf = chosen ? undefined : await kept();
    letGo();
    onProgress({ received: 0, total: numbers.bytes });
    await show();
    say("Loading the weights.");
    try {
      engine = await startEngine();
      weights = await engine.loadGGUF(chosen ?? (await onShelf?.blob()) ?? address, { onProgress, signal });
      onModel(engine);
    } catch (error) {
      letGo();
      if (signal.aborted) say("Stopped. Nothing is loaded.");
      else fail(error);
      if (onShelf && !signal.aborted) await caches.delete(SHELF); // what is kept cannot be read
    }
    stopper = null;
    file.value = "";
    await show();
  }
  async function keep() {
    try {
      await (await caches.open(SHELF)).put(address, new Response(weights));
      say("Kept on this device: the next visit loads the weights without a request.");
    } catch (error) {
      const isFull = /** @type {Error} */ (error).name === "QuotaExceededError";
      const reason = isFull ? "the browser has no room left for this site" : "this browser keeps nothing for this site";
      fail(new Error(`The weights cannot be kept: ${reason}. What is loaded works until you leave the page.`));
    }
    await show();
  }
  async function remove() {
    await caches.delete(SHELF);
    say("Removed from this device. What is loaded works until you leave the page, here and in other tabs.");
    await show();
  }
}
