// The models: a card for each, which stays the same nodes while its model changes, so that focus and open parts are kept.

import * as api from "./api.js";
import { Chart } from "./chart.js";
import { element, find, say, show } from "./dom.js";
import { Load } from "./load.js";

const WORDS = { READY: "Ready", LOADING: "Starting", CREATING: "Starting", UPDATING: "Updating", ERROR: "Failed" };
// No replica is wanted: the status is the same as of one that starts.
const IDLE = { asleep: "Asleep", suspended: "Suspended" };
const number = new Intl.NumberFormat("en");
export const loads = new Map();
const cards = new Map();
let clustered = false;

/** Of a model in the overview, or of one of its replicas. */
export const standing = ({ status, idle }) => IDLE[idle] ?? WORDS[status] ?? status;

export const isStarting = ({ status, idle }) => !idle && (status === "LOADING" || status === "CREATING");

/** `seen` is the front door's overview. */
export function showModels(seen) {
  clustered = !seen.machines.length;
  const uids = new Set(seen.models.map((model) => model.uid));
  for (const [uid, card] of cards) {
    if (!uids.has(uid)) {
      card.node.remove();
      cards.delete(uid);
      loads.delete(uid);
    }
  }
  for (const model of seen.models) {
    if (!loads.has(model.uid)) loads.set(model.uid, new Load());
    loads.get(model.uid).add(seen.at, model.replicas);
    if (!cards.has(model.uid)) cards.set(model.uid, new Card(model.uid));
    cards.get(model.uid).update(model, loads.get(model.uid));
  }
  // In the order of the list; a node that stands right is not touched, or it would lose the focus.
  seen.models.forEach((model, place) => {
    const node = cards.get(model.uid).node;
    if (find("cards").children[place] !== node) find("cards").insertBefore(node, find("cards").children[place] ?? null);
  });
  show(find("models-none"), !seen.models.length);
  show(find("address"), seen.models.length > 0);
  say(find("models-summary"), counted(seen));
  // Not read out: it is another figure at each look.
  say(find("models-memory"), seen.machines.map(({ free, memory }) => `${gib(free)} of ${gib(memory)} GiB memory free`).join(" · "));
}

/** Whether it could be: it may not be listed yet, or its view not be shown. */
export function focusModel(uid) {
  const name = cards.get(uid)?.name;
  name?.focus();
  return name !== undefined && document.activeElement === name;
}

function counted({ models }) {
  const counts = {};
  for (const model of models) counts[standing(model)] = (counts[standing(model)] ?? 0) + 1;
  return Object.entries(counts).map(([word, count]) => `${count} ${word.toLowerCase()}`).join(" · ");
}

const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);

class Card {
  constructor(uid) {
    this.uid = uid;
    this.name = element("h2", { tabindex: "-1", id: `model-${uid}` }, uid);
    this.badge = element("span", { class: "badge" });
    this.facts = element("p", { class: "facts" });
    this.words = element("p", { class: "words" });
    this.bar = element("progress", { max: 1, "aria-label": `Progress of ${uid}` });
    this.alert = element("p", { class: "alert", role: "alert" });
    this.charts = [new Chart("Generated", "tokens/s", 1), new Chart("Requests", "in the batch", 1), new Chart("First token", "s", 0.05)];
    this.chartsNode = element("div", { class: "charts" }, this.charts.map((chart) => chart.node));
    this.replicas = element("ul", { class: "replicas", "aria-label": "Replicas" });
    this.chat = element("a", { class: "button primary", href: `#chat/${encodeURIComponent(uid)}` }, "Chat");
    this.log = element("button", { type: "button", onclick: () => showLog(uid) }, "Log");
    this.end = element("button", { type: "button", class: "quiet danger", onclick: () => this.ask() }, "Terminate");
    this.note = element("p", { class: "muted" }, "It lives in another namespace, and is looked after and ended there, by kubectl.");
    const actions = element("div", { class: "actions" }, this.chat, this.log, this.end);
    this.node = element(
      "article",
      { class: "panel card", "aria-labelledby": this.name.id },
      element("div", { class: "card-head" }, this.name, this.badge),
      this.facts, this.bar, this.words, this.alert, this.chartsNode, this.replicas, this.note, actions,
    );
    show(this.alert, false);
  }

  update(model, load) {
    const { status, message, progress, replicas } = model;
    const ready = status === "READY";
    this.node.dataset.status = model.idle ? "IDLE" : status;
    say(this.badge, this.ending ? "Ending" : standing(model));
    say(this.facts, facts(model));
    show(this.bar, isStarting(model));
    if (progress > 0) this.bar.value = progress;
    else this.bar.removeAttribute("value");
    // The words of a failure are an alert of their own, in full.
    const failed = status === "ERROR" ? message || "It failed and left no word." : this.refusal;
    say(this.words, ready ? message : status === "ERROR" ? "" : message || "launching");
    show(this.words, this.words.textContent !== "");
    show(this.alert, Boolean(failed));
    say(this.alert, failed ?? "");
    show(this.chartsNode, ready || load.samples.some((sample) => sample.running !== null));
    this.draw(model, load);
    show(this.replicas, replicas.length > 1);
    this.list(replicas);
    this.chat.classList.toggle("primary", ready);
    show(this.chat, status !== "ERROR");
    // The front door may neither read logs nor delete there.
    show(this.note, model.foreign);
    show(this.log, !model.foreign);
    show(this.end, !model.foreign);
    say(this.end, status === "ERROR" ? "Remove" : "Terminate");
    this.end.disabled = Boolean(this.ending);
  }

  draw(model, load) {
    const { rate, running, waiting } = load.last();
    const [tokens, requests, first] = this.charts;
    const known = [...load.known("first"), ...load.dots()].sort(([left], [right]) => left - right);
    tokens.draw(load.line("rate"), rounded(rate), `peak ${rounded(load.peak("rate"))}`);
    const rows = model.max_num_seqs * Math.max(1, model.replicas.length);
    requests.draw(load.line("running"), running === null ? "–" : String(running), `${waiting ?? 0} waiting · room for ${number.format(rows)}`, load.line("waiting"));
    first.draw(load.known("first"), known.length ? known[0][1].toFixed(2) : "–", known.length ? (load.dots().length ? "dots: this page" : "mean") : "no request yet", [], load.dots());
  }

  list(replicas) {
    const lines = replicas.map((replica) => {
      const { id, message, load } = replica;
      const busy = load ? ` · ${load.running} running, ${load.waiting} waiting` : "";
      return `${id}: ${standing(replica)}${message ? `, ${message}` : ""}${busy}`;
    });
    if (this.listed === lines.join("\n")) return;
    this.listed = lines.join("\n");
    this.replicas.replaceChildren(...lines.map((line) => element("li", {}, line)));
  }

  ask() {
    const dialog = find("ending");
    const failed = this.node.dataset.status === "ERROR";
    say(find("ending-title"), `${failed ? "Remove" : "Terminate"} ${this.uid}?`);
    say(find("ending-words"), clustered
      ? "The resource is deleted and its pods end. Answers under way may finish; new requests are refused."
      : "Its process ends and its memory is free again. Answers under way may finish; new requests are refused.");
    say(find("ending-yes"), failed ? "Remove" : "Terminate");
    find("ending-yes").onclick = () => {
      dialog.close();
      this.terminate();
    };
    find("ending-no").onclick = () => dialog.close();
    dialog.showModal();
  }

  async terminate() {
    this.ending = true;
    this.refusal = null;
    say(this.badge, "Ending");
    this.node.dataset.status = "ENDING";
    try {
      await api.terminate(this.uid);
      find("models-title").focus();
    } catch (error) {
      this.refusal = error.message;
    }
    this.ending = false;
    document.dispatchEvent(new Event("look"));
  }
}

const rounded = (value) => (value === null ? "–" : value < 10 && value > 0 ? value.toFixed(1) : String(Math.round(value)));

function facts({ name, uid, repository, size, quantization, context, max_num_seqs: rows, replicas, replicas_wanted: wanted }) {
  const parts = [name !== uid ? name : repository && repository !== uid ? repository : ""];
  if (size) parts.push(`${size} B`);
  if (quantization !== "none") parts.push(quantization);
  if (context) parts.push(`${number.format(context)} tokens of context`);
  parts.push(`batch of ${rows}`);
  const count = Math.max(wanted, replicas.length);
  parts.push(count === 1 ? "1 replica" : `${count} replicas`);
  return parts.filter(Boolean).join(" · ");
}

async function showLog(uid) {
  say(find("log-title"), `Log of ${uid}`);
  say(find("log-text"), "…");
  find("log-close").onclick = () => find("log").close();
  find("log").showModal();
  try {
    say(find("log-text"), (await api.log(uid)) || "Nothing was written yet.");
  } catch (error) {
    say(find("log-text"), error.message);
  }
  find("log-text").scrollTop = find("log-text").scrollHeight;
}
