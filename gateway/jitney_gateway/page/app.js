// Wires the page: which view is shown, what the front door says now, and the key.

import * as api from "./api.js";
import * as chatting from "./chatting.js";
import { copyButton, find, say, show } from "./dom.js";
import * as launching from "./launching.js";
import { focusModel, isStarting, showModels } from "./models.js";

// Milliseconds between two looks; sooner while something starts, later while nobody answers.
const PERIOD = 2000;
const SOON = 1000;
const LATER = 3000;
const VIEWS = { models: "Models", launch: "Launch", chat: "Chat" };
let timer = 0;
let looking = false;
let expected = null;
let offered = false;

async function look() {
  if (looking) return;
  looking = true;
  clearTimeout(timer);
  let pause = PERIOD;
  try {
    const seen = await api.overview();
    showModels(seen);
    launching.showMachine(seen);
    chatting.showChoices(seen);
    say(find("connection"), `connected · ${seen.version}`);
    find("connection").dataset.state = "on";
    show(find("problem"), false);
    if (seen.models.some(isStarting)) pause = SOON;
    // A look that began before the launch does not know it yet.
    if (expected && focusModel(expected)) expected = null;
  } catch (error) {
    pause = LATER;
    find("connection").dataset.state = "off";
    say(find("connection"), error.status ? "refused" : "not connected");
    say(find("problem"), error.message);
    show(find("problem"), true);
    if (error.status === 401 || error.status === 403) await askForKey();
  }
  looking = false;
  // Nobody looks at a page in the background, and what it would ask for costs others.
  if (!document.hidden) timer = setTimeout(look, pause);
}

function route(event) {
  const [view, uid = ""] = location.hash.slice(1).split("/");
  const name = Object.hasOwn(VIEWS, view) ? view : "models";
  for (const other of Object.keys(VIEWS)) show(find(`view-${other}`), other === name);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name !== "models") expected = null;
  document.title = `${VIEWS[name]} · Jitney`;
  document.body.dataset.view = name;
  const wanted = decoded(uid);
  if (wanted) chatting.choose(wanted);
  if (event && !expected) find(`${name}-title`).focus({ preventScroll: true });
  if (event) scrollTo(0, 0);
  if (name === "launch") launching.enter().catch((error) => problem(error));
  if (name === "chat") chatting.enter();
}

/** Empty where it cannot be, such as "%". */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

function problem(error) {
  say(find("problem"), error.message);
  show(find("problem"), true);
}

function launched(uid) {
  expected = uid;
  location.hash = "#models";
  look();
}

// The key

async function askForKey() {
  if (!(await api.auth().catch(() => false))) return;
  show(find("key-open"), true);
  // By itself it opens once: whoever has closed it knows the button.
  if (offered || api.key.get() || document.querySelector("dialog[open]")) return;
  offered = true;
  openKey();
}

function openKey() {
  find("key-value").value = api.key.get();
  find("key").showModal();
}

function beginKey() {
  find("key-open").addEventListener("click", openKey);
  find("key-no").addEventListener("click", () => find("key").close());
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.key.set(find("key-value").value.trim());
    find("key").close();
    look();
    route();
  });
}

const address = `${location.origin}/v1`;
for (const id of ["base-url", "address-url"]) say(find(id), address);
find("address").append(copyButton(() => address));
launching.begin(launched);
chatting.begin();
beginKey();
document.querySelector(".skip").addEventListener("click", (event) => {
  // As a link it would be a hash, which is a view here.
  event.preventDefault();
  find("main").focus();
});
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => !document.hidden && look());
document.addEventListener("look", look);
api.auth().then((needed) => show(find("key-open"), needed), () => {});
route();
look();
