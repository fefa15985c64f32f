// Text to token ids and back, by byte-pair encoding: the vocabularies of GPT-2 and of SmolLM2.
// Bytes are written as a string with one character for each, from "\0" to "\xff".

/** The pieces of a text inside which bytes are merged. */
const PIECES =
  /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const STRANGE = /[\p{C}\p{Z}]/gu; // what Python does not call printable, but for characters newer than its Unicode
const BETWEEN = "\u0100"; // two parts of a pair: no byte

const toBytes = (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
const fromBytes = (bytes) => Uint8Array.from(bytes, (char) => char.charCodeAt(0));
const inHex = (char) => `\\x${char.codePointAt(0).toString(16).padStart(2, "0")}`;

export class Tokenizer {
  /**
   * @param {string[]} tokens the bytes of each, by id
   * @param {(left: string, right: string) => number | undefined} rank how early two neighbours are merged
   * @param {number[]} special ids of the tokens that no text becomes by itself
   * @param {boolean} single_digits whether every number character stands alone, as SmolLM2 has it
   */
  constructor(tokens, rank, special, single_digits) {
    this.tokens = tokens;
    this.rank = rank;
    this.single_digits = single_digits;
    this.special = new Map(special.map((id) => [tokens[id], id]));
    this.ids = new Map(tokens.map((bytes, id) => [bytes, id]));
  }

  /** Marks such as <|im_start|> are nothing special unless asked for. @param {string} text @returns {number[]} */
  encode(text, special = false) {
    if (special) {
      const marks = Array.from(this.special.keys(), (mark) => mark.replaceAll("|", "\\|"));
      const parts = text.split(new RegExp(`(${marks.join("|")})`));
      return parts.flatMap((part) => this.special.get(part) ?? this.encode(part));
    }
    const parts = this.single_digits ? text.split(/(\p{N})/u) : [text];
    const pieces = parts.flatMap((part) => part.match(PIECES) ?? []);
    return pieces.flatMap((piece) => this.merged(toBytes(piece)));
  }

  /** The ids of one piece: the pair with the lowest rank is merged first, the left one of equals. */
  merged(bytes) {
    const parts = Array.from(bytes).filter((byte) => this.ids.has(byte)); // SmolLM2 lacks some, and leaves them out
    const rankAt = (i) => (i + 1 < parts.length ? this.rank(parts[i], parts[i + 1]) : undefined) ?? Infinity;
    const ranks = parts.map((_, i) => rankAt(i));
    for (;;) {
      let best = 0;
      for (let i = 1; i < ranks.length; i++) if (ranks[i] < ranks[best]) best = i;
      if (!(ranks[best] < Infinity)) return parts.map((part) => this.ids.get(part) ?? 0);
      parts.splice(best, 2, parts[best] + parts[best + 1]);
      ranks.splice(best, 1);
      ranks[best] = rankAt(best);
      if (best) ranks[best - 1] = rankAt(best - 1);
    }
  }

  /** Gives the text that each token adds; a character in several tokens comes with the last of them. */
  reader() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (/** @type {number} */ id) => decoder.decode(fromBytes(this.tokens[id] ?? ""), { stream: true });
  }

  /** One token as a short visible text, as `token_label` in tokenizer.py: ␣ is a space, ↵ a line end. */
  label(id) {
    const text = characters(fromBytes(this.tokens[id])).join("");
    const visible = text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(STRANGE, inHex);
    return (/^\p{M}/u.test(text) ? "◌" : "") + visible;
  }
}

/** The characters of some bytes; a byte that is part of none in hex. @param {Uint8Array} bytes */
function characters(bytes) {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const found = [];
  for (let at = 0, length = 1; at < bytes.length; at += length) {
    length = bytes[at] < 0xc0 ? 1 : bytes[at] < 0xe0 ? 2 : bytes[at] < 0xf0 ? 3 : 4;
    try {
      found.push(strict.decode(bytes.subarray(at, at + length)));
    } catch {
      found.push(inHex(String.fromCharCode(bytes[at])));
      length = 1;
    }
  }
  return found;
}

/** GPT-2's: a token's id is also its rank. @param {string[]} tokens without <|endoftext|> */
export function gpt2Tokenizer(tokens) {
  const ids = new Map(tokens.map((bytes, id) => [bytes, id]));
  return new Tokenizer([...tokens, "<|endoftext|>"], (left, right) => ids.get(left + right), [tokens.length], false);
}

/** SmolLM2's, from the settings in its GGUF file, where each byte is a visible character. */
export function smolTokenizer(metadata) {
  const byteOf = new Map();
  let n_more = 0;
  for (let byte = 0; byte < 256; byte++) {
    const visible = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    byteOf.set(String.fromCharCode(visible ? byte : 256 + n_more++), String.fromCharCode(byte));
  }
  const bytes = (token) => Array.from(token, (char) => byteOf.get(char)).join("");
  const pairs = metadata["tokenizer.ggml.merges"].map((pair) => pair.split(" ").map(bytes).join(BETWEEN));
  const ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
  const special = metadata["tokenizer.ggml.token_type"].flatMap((kind, id) => (kind === 3 ? [id] : []));
  const tokens = metadata["tokenizer.ggml.tokens"].map(bytes);
  return new Tokenizer(tokens, (left, right) => ranks.get(left + BETWEEN + right), special, true);
}
