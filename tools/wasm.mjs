// npm run wasm [FILE]: assembles the kernel of the live engine, and writes it as a module.
import { readFileSync, writeFileSync } from "node:fs";
import wabt from "wabt";

const folder = new URL("../kvcache/widgets/live/", import.meta.url);
const assembler = await wabt();
const module = assembler.parseWat("products.wat", readFileSync(new URL("products.wat", folder), "utf8"), {
  simd: true,
});
const binary = Buffer.from(module.toBinary({}).buffer).toString("base64");
const text = `// products.wat, assembled by \`npm run --prefix tools wasm\`.
export const KERNEL =
  "${binary}";
`;
writeFileSync(process.argv[2] ?? new URL("products_wasm.js", folder), text);
