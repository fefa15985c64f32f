// The memory calculator: cache beside weights, for a model and a GPU.
import { announcer, figure, filled, make, need, picker } from "./controls.js";

const grouped = (number) => number.toLocaleString("en");

/** As in memory.py; `of` holds bigints. */
function costs(of, cacheFormat, weightFormat) {
  const token = (2n * of.n_layers * of.n_kv_heads * of.head_dim * BigInt(cacheFormat.bits)) / 8n;
  const weights = (of.n_parameters * BigInt(weightFormat.bits) + 7n) / 8n;
  const longest = (of.memory_bytes - weights) / (token * of.batch_size);
  return [token, token * of.batch_size * of.context_length, weights, longest > 0n ? longest : 0n];
}

function size(bytes) {
  let value = Number(bytes),
    unit = 0;
  for (; value >= 999.5 && unit < 9; unit++) value /= 1000;
  return `${+value.toPrecision(3)} ${["", ..."kMGTPEZYR"][unit]}B`;
}

/** A number to type; `read` gives a bigint or false. */
function field({ key, label, most, unit }, oninput) {
  const input = make("input", { type: "number", step: "any", value: 1, oninput });
  const wrong = make("span");
  function read(heads) {
    const number = Math.round(input.value * unit),
      whole = unit > 1 ? "" : "whole ";
    const fine = number > 0 && input.value <= most && (!whole || number === +input.value);
    const must = !fine
      ? `a ${whole}number above 0, at most ${grouped(most)}`
      : key === "n_kv_heads" && heads && heads % BigInt(number)
        ? `a divisor of the ${heads} attention heads`
        : "";
    input.setAttribute("aria-invalid", !!must);
    wrong.className = must && "tff-error";
    wrong.textContent = must && `${label} is ${input.value || "no number"}; give ${must}.`;
    return !must && BigInt(number);
  }
  return { key, unit, input, read, root: make("label", { class: "tff-field" }, `${label} `, input, wrong) };
}

/** @param {{fields: object[], lists: {label: string, items: object[]}[]}} data */
function checked(data) {
  filled(data?.fields, "fields");
  need(data.lists?.length === 4 && data.lists.every(({ items }) => filled(items, "items")), "not 4 lists");
  return data;
}

function draw({ fields, lists }, el) {
  const pickers = lists.map(({ label, items }) =>
    picker(
      label,
      items.map(({ name }) => name),
      (at) => {
        fill(items[at]);
        update();
      },
    ),
  );
  const inputs = fields.map((each) =>
    field(each, () => {
      const own = pickers[each.list]?.control.lastChild;
      if (own) own.selected = true;
      update();
    }),
  );
  const speech = announcer(),
    bars = make("div", { class: "tff-scale" }),
    table = make("table"),
    sources = make("p");

  function fill(item) {
    for (const { key, input, unit } of inputs) if (item[key]) input.value = item[key] / unit;
  }
  function update() {
    const chosen = lists.map(({ items }, i) => items[pickers[i].control.selectedIndex]);
    sources.replaceChildren(
      "1 kB is 1,000 bytes. Sources:",
      ...chosen.flatMap(({ name, source }) =>
        source ? [" ", make("a", { href: source, rel: "noopener" }, name)] : [],
      ),
    );
    const of = {};
    for (const { key, read } of inputs) of[key] = read(of.n_heads);
    if (Object.values(of).every(Boolean)) show(of.memory_bytes, costs(of, ...chosen.slice(2)));
    else speech.say("See the marked field. The last good result:");
  }
  function show(gpu, [token, cache, weights, longest]) {
    const share = Number((1000n * cache) / weights) / 10,
      over = weights + cache - gpu,
      fits = over <= 0n;
    const verdict = `${fits ? "fit into" : `are ${size(over)} too much for`} ${size(gpu)}`;
    table.replaceChildren(
      ...[
        ["bytes-per-token", token, grouped(token)],
        ["cache", cache, size(cache)],
        ["weights", weights, size(weights)],
        ["cache-to-weights", share, `${share} %`],
        ["longest-context", longest, longest ? `${grouped(longest)} tokens would fit` : "the weights alone do not fit"],
        ["together", +fits, verdict],
      ].map(([key, value, text]) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, key.replaceAll("-", " ")),
          make("td", { "data-output": key, "data-value": value }, text),
        ),
      ),
    );
    const percent = (bytes) => `${(100 * Number(bytes)) / Number(fits ? gpu : gpu + over)}%`;
    bars.replaceChildren(
      ...[
        ["weights", weights, 0],
        ["cache", cache, weights],
        ["GPU", gpu, 0],
      ].flatMap(([name, bytes, start]) => [
        `${name} ${size(bytes)}`,
        make("div", { class: `tff-mark tff-${name}`, style: `margin-left:${percent(start)};width:${percent(bytes)}` }),
      ]),
    );
    speech.say(`Cache ${size(cache)} and weights ${size(weights)} ${verdict}.`);
  }
  el.replaceChildren(
    make("div", { class: "tff-controls" }, ...pickers, ...inputs.map(({ root }) => root)),
    speech.root,
    bars,
    table,
    sources,
  );
  for (const { items } of lists) fill(items[0]);
  update();
}

export default figure("Memory", checked, draw);
