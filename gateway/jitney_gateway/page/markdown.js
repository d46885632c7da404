// Markdown as chat models write it, made into DOM nodes. There is no way from a model's text to markup: every node is made here, every
// text is a text node, and a link goes to http and https only. What is no Markdown, HTML too, stays as it was written.

import { copyButton, element } from "./dom.js";

// Longer paragraphs, and deeper nesting, are shown as they are.
const LONGEST = 20_000;
const DEEPEST = 8;

/** Nodes for a whole text. One that is not finished yet, as while it streams, is fine. */
export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(\S.*)?$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
// Of a line without spaces around it.
const DIVIDER = /^\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?$/;

function blocks(lines, depth) {
  if (depth > DEEPEST) return [paragraph(lines)];
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) {
      at += 1;
    } else if ((found = FENCE.exec(line))) {
      const end = closing(lines, at + 1, found[1]);
      made.push(code(lines.slice(at + 1, end).join("\n"), found[2]));
      at = end + 1;
    } else if ((found = HEADING.exec(line))) {
      // The page has its own first level.
      made.push(element(`h${Math.min(6, found[1].length + 1)}`, {}, inline(title(found[2] ?? ""), depth)));
      at += 1;
    } else if (RULE.test(line)) {
      made.push(element("hr"));
      at += 1;
    } else if (QUOTE.test(line)) {
      const end = until(lines, at, (next) => !QUOTE.test(next));
      made.push(element("blockquote", {}, blocks(lines.slice(at, end).map((quoted) => QUOTE.exec(quoted)[1]), depth + 1)));
      at = end;
    } else if (ITEM.test(line)) {
      const end = listEnd(lines, at);
      made.push(list(lines.slice(at, end), depth));
      at = end;
    } else if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DIVIDER.test(lines[at + 1].trim())) {
      const end = until(lines, at, (next) => !next.includes("|"));
      made.push(table(lines.slice(at, end), depth));
      at = end;
    } else {
      const end = Math.max(at + 1, until(lines, at, (next) => !next.trim() || starts(next)));
      made.push(paragraph(lines.slice(at, end), depth));
      at = end;
    }
  }
  return made;
}

const starts = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

/** Without the signs that may close a heading; those of `C#` are its own. */
const title = (text) => text.trimEnd().replace(/(^|\s)#+$/, "").trimEnd();

function until(lines, from, ends) {
  let at = from;
  while (at < lines.length && !ends(lines[at])) at += 1;
  return at;
}

function closing(lines, from, fence) {
  return until(lines, from, (line) => line.trim().startsWith(fence) && !line.trim().slice(fence.length).replaceAll(fence[0], "").trim());
}

/** Behind the last line that belongs to the list: its items, what is indented below them, and blank lines between. */
function listEnd(lines, from) {
  let at = from + 1;
  while (at < lines.length) {
    const next = lines[at];
    if (ITEM.test(next) || /^\s{2,}\S/.test(next)) at += 1;
    else if (!next.trim() && at + 1 < lines.length && (ITEM.test(lines[at + 1]) || /^\s{2,}\S/.test(lines[at + 1]))) at += 1;
    else if (next.trim() && !starts(next) && lines[at - 1].trim()) at += 1;
    else break;
  }
  return at;
}

function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const first = ordered ? Number.parseInt(mark, 10) : 1;
  const node = element(ordered ? "ol" : "ul", { start: ordered && first !== 1 ? first : null });
  let item = null;
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= indent.length + 1) {
      if (item) node.append(listed(item, depth));
      item = { width: found[1].length + found[2].length + 1, lines: [found[4]] };
    } else {
      const spaces = /^\s*/.exec(line)[0].length;
      item.lines.push(line.slice(Math.min(spaces, item.width)));
    }
  }
  node.append(listed(item, depth));
  return node;
}

function listed(item, depth) {
  const made = blocks(item.lines, depth + 1);
  // An item of one paragraph needs no paragraph.
  const loose = item.lines.includes("");
  const plain = made.flatMap((node) => (node.tagName === "P" && !loose ? [...node.childNodes] : [node]));
  return element("li", {}, plain);
}

function code(text, language) {
  const head = element("div", { class: "code-head" }, element("span", {}, language || "text"), copyButton(() => text));
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0", role: "region", "aria-label": "Code" }, element("code", {}, text)));
}

function table(lines, depth) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/);
  const row = (line, tag) => element("tr", {}, cells(line).map((cell) => element(tag, {}, inline(cell.trim().replace("\\|", "|"), depth))));
  const head = element("thead", {}, row(lines[0], "th"));
  const body = element("tbody", {}, lines.slice(2).map((line) => row(line, "td")));
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, element("table", {}, head, body));
}

function paragraph(lines, depth = DEEPEST + 1) {
  const parts = lines.flatMap((line, number) => [number ? element("br") : null, ...inline(line.trim(), depth)]);
  return element("p", {}, parts);
}

const INLINE = new RegExp(
  [
    /\\([\\`*_#~[\]|>!])/, // 1: an escaped sign
    /!?\[([^[\]]*)\]\(\s*<?([^\s<>()]+(?:\([^\s()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/, // 2, 3: a link; of a picture only the link
    /(https?:\/\/[^\s<>"`]*[^\s<>"`.,;:!?)\]}'*_])/, // 4: an address as it is
    /((?<!`)`+|(?:\*\*|__|~~)(?=\S)|\*(?=[^\s*])|(?<![\p{L}\p{N}_])_(?=[^\s_]))/, // 5: what begins one of the marks
  ]
    .map((part) => part.source)
    .join("|"),
  "gu",
);
// How they end: `_` is also part of snake_case. Ends are looked for one by one, since a pattern for begin and end together would look through
// all the rest at each begin that has no end.
const MARKS = {
  "**": { tag: "strong", end: /(?<=\S)\*\*(?!\*)/g },
  __: { tag: "strong", end: /(?<=\S)__(?!_)/g },
  "*": { tag: "em", end: /(?<=\S)\*(?!\*)/g },
  _: { tag: "em", end: /(?<=\S)_(?![\p{L}\p{N}_])/gu },
  "~~": { tag: "s", end: /~~/g },
};

function inline(text, depth) {
  if (depth > DEEPEST || text.length > LONGEST) return [text];
  const made = [];
  // What has no end behind one place has none behind a later one.
  const endless = new Set();
  let [from, at, found] = [0, 0, null];
  while ((found = first(INLINE, text, at))) {
    const [whole, escaped, label, target, address, mark] = found;
    at = found.index + whole.length;
    let node = escaped;
    if (mark !== undefined) {
      const end = endless.has(mark) ? null : first(ending(mark), text, at + 1);
      if (!end) {
        endless.add(mark);
        at = found.index + 1;
        continue;
      }
      node = marked(mark, text.slice(at, end.index), depth + 1);
      at = end.index + end[0].length;
    } else if (escaped === undefined) {
      node = (label === undefined ? link(address, [address]) : link(target, inline(label, depth + 1))) ?? whole;
    }
    made.push(text.slice(from, found.index), node);
    from = at;
  }
  made.push(text.slice(from));
  return made.filter((part) => part !== "");
}

function first(pattern, text, from) {
  pattern.lastIndex = from;
  return pattern.exec(text);
}

/** Of code, as many backticks as began it. */
const ending = (mark) => MARKS[mark]?.end ?? new RegExp(`(?<!\`)${mark}(?!\`)`, "g");

function marked(mark, text, depth) {
  if (MARKS[mark]) return element(MARKS[mark].tag, {}, inline(text, depth));
  return element("code", {}, text.length > 2 ? text.replace(/^ (.*) $/, "$1") : text);
}

/** null where it goes anywhere but to http or https. */
function link(target, children) {
  const url = parsed(target);
  if (!url || !["http:", "https:"].includes(url.protocol)) return null;
  return element("a", { href: url.href, rel: "noopener noreferrer nofollow", target: "_blank" }, children.length ? children : [target]);
}

function parsed(target) {
  try {
    return new URL(target);
  } catch {
    return null;
  }
}
