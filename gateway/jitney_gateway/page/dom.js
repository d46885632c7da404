// Makes nodes. What a model or a server wrote reaches the page as text only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick: f`) and children; what is null or false is left out. */
export function element(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Writes only what has changed, so that a screen reader and a selection are left in peace. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

export const find = (id) => document.getElementById(id);

/** Pages that came over plain HTTP have no clipboard: there the older command copies what is selected. */
async function copied(words) {
  if (navigator.clipboard) return navigator.clipboard.writeText(words);
  const focused = document.activeElement;
  const field = element("textarea", { class: "unseen", readonly: true }, words);
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!done) throw new Error("not allowed");
}

/** A button that copies what `text()` gives, and says that it has. */
export function copyButton(text, label = "Copy") {
  const button = element("button", { type: "button", class: "quiet small", onclick: copy }, label);
  async function copy() {
    try {
      await copied(text());
      say(button, "Copied");
    } catch {
      say(button, "Not allowed");
    }
    setTimeout(() => say(button, label), 1600);
  }
  return button;
}
