// The playground: one conversation with one model, streamed as it is made, stopped when asked.

import * as api from "./api.js";
import { copyButton, element, find, say, show } from "./dom.js";
import { markdown } from "./markdown.js";
import { loads, standing } from "./models.js";

const SUGGESTIONS = ["Explain continuous batching to a ten-year-old", "Write a haiku about a shared bus", "Plan a small vegetable garden"];
// Of one tab: a reload keeps the conversation, a new tab begins anew.
const KEPT = "jitney-conversation";
const SETTINGS = ["chat-model", "system", "temperature", "top-p", "max-tokens"];
let talk = [];
let running = null;

// Where it is, a focused text field raises a keyboard over half of the page, which has no Shift + Enter.
const byTouch = () => matchMedia("(pointer: coarse)").matches;

export function begin() {
  restore();
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(find("question").value);
  });
  find("question").addEventListener("keydown", (event) => {
    // While an input method composes, Enter is its own.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !byTouch()) {
      event.preventDefault();
      find("composer").requestSubmit();
    }
  });
  find("question").addEventListener("input", grow);
  find("stop").addEventListener("click", () => running?.abort());
  find("anew").addEventListener("click", anew);
  for (const id of SETTINGS) find(id).addEventListener("input", settle);
  find("suggestions").append(...SUGGESTIONS.map((text) => element("button", { type: "button", onclick: () => send(text) }, text)));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) running.abort();
  });
  // On a phone the settings would stand before the conversation.
  if (matchMedia("(max-width: 860px)").matches) find("settings").open = false;
  if (byTouch()) say(find("question-hint"), "Answers may be wrong.");
  settle();
  paint();
}

/** Which models there are to talk to. */
export function showChoices({ models }) {
  const select = find("chat-model");
  const wanted = models.map((model) => [model.uid, model.status === "READY" ? model.uid : `${model.uid} (${standing(model).toLowerCase()})`]);
  if (JSON.stringify(wanted) !== select.dataset.shown) {
    const before = select.dataset.want || select.value;
    select.replaceChildren(...wanted.map(([uid, label]) => element("option", { value: uid }, label)));
    const first = models.find(({ status }) => status === "READY") ?? models[0];
    if (models.some(({ uid }) => uid === before)) select.value = before;
    else if (first) select.value = first.uid;
    select.dataset.shown = JSON.stringify(wanted);
    settle();
  }
  find("send").disabled = !models.length;
}

export function choose(uid) {
  const select = find("chat-model");
  select.dataset.want = uid;
  if ([...select.options].some((option) => option.value === uid)) select.value = uid;
  settle();
}

export function enter() {
  if (!byTouch()) find("question").focus();
  grow();
}

function settle(event) {
  if (event?.target.id === "chat-model") delete find("chat-model").dataset.want;
  say(find("temperature-now"), Number(find("temperature").value).toFixed(2));
  say(find("top-p-now"), Number(find("top-p").value).toFixed(2));
  const uid = find("chat-model").value;
  say(find("settings-now"), uid);
  say(find("talk-none-words"), uid ? `${uid} is listening. What you write goes to this server and nowhere else.` : "No model is launched yet: launch one first.");
  keep();
}

function keep() {
  const settings = Object.fromEntries(SETTINGS.map((id) => [id, find(id).value]));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ talk, settings }));
  } catch {
    // A full or forbidden storage keeps nothing, and the chat goes on.
  }
}

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
    talk = kept.talk ?? [];
    for (const [id, value] of Object.entries(kept.settings ?? {})) {
      if (id === "chat-model") find(id).dataset.want = value;
      else if (SETTINGS.includes(id)) find(id).value = value;
    }
  } catch {
    talk = [];
  }
}

function anew() {
  running?.abort();
  talk = [];
  keep();
  paint();
  if (!byTouch()) find("question").focus();
}

function grow() {
  const box = find("question");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 220)}px`;
}

// A conversation on the page

function paint() {
  find("messages").replaceChildren(...talk.map((message) => new Bubble(message).node));
  show(find("talk-none"), !talk.length);
  show(find("messages"), talk.length > 0);
  bottom();
}

const near = () => find("messages").scrollHeight - find("messages").scrollTop - find("messages").clientHeight < 80;
const bottom = () => {
  find("messages").scrollTop = find("messages").scrollHeight;
};

/** One message; an answer is drawn anew at most once a frame while it grows. */
class Bubble {
  constructor(message) {
    this.message = message;
    this.body = element("div", { class: "prose" });
    this.foot = element("p", { class: "figures" });
    this.alert = element("p", { class: "alert", role: "alert" });
    const who = message.role === "user" ? "You" : message.model;
    this.copy = copyButton(() => message.content);
    this.ending = element("div", { class: "ending" }, this.foot, this.copy);
    const parts = [element("div", { class: "who" }, who), this.body, this.alert, message.role === "user" ? null : this.ending];
    this.node = element("article", { class: `message ${message.role}`, "aria-label": who }, parts);
    this.draw();
  }

  draw() {
    const { role, content, failed, figures, open } = this.message;
    if (role === "user") this.body.replaceChildren(element("p", {}, content));
    else this.body.replaceChildren(...markdown(content));
    this.node.classList.toggle("open", Boolean(open));
    say(this.alert, failed ?? "");
    show(this.alert, Boolean(failed));
    say(this.foot, figures ?? "");
    show(this.foot, Boolean(figures));
    show(this.copy, !open && Boolean(content));
  }

  /** Soon, and once for however many pieces come until then. */
  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      const follow = near();
      this.draw();
      if (follow) bottom();
    });
  }
}

async function send(text) {
  const uid = find("chat-model").value;
  if (running || !text.trim() || !uid) return;
  const answer = { role: "assistant", model: uid, content: "", open: true };
  talk.push({ role: "user", content: text.trim() }, answer);
  find("question").value = "";
  grow();
  paint();
  const bubble = new Bubble(answer);
  find("messages").lastChild.replaceWith(bubble.node);
  bottom();
  running = new AbortController();
  busy(true, "The model is answering.");
  const ended = await listen(answer, bubble, running.signal);
  running = null;
  // Why it failed is an alert of its own.
  busy(false, answer.failed ? "" : ended === "stopped" ? "The answer was stopped." : "The answer is complete.");
  delete answer.open;
  bubble.draw();
  keep();
}

/** Told with `words`. */
function busy(now, words) {
  // Read out when it is whole, not word by word.
  find("messages").setAttribute("aria-busy", String(now));
  const stop = document.activeElement === find("send") || document.activeElement === find("stop");
  show(find("send"), !now);
  show(find("stop"), now);
  if (stop) find(now ? "stop" : byTouch() ? "send" : "question").focus();
  say(find("spoken"), words);
}

function asked(uid) {
  const system = find("system").value.trim();
  // What failed before it said anything is no part of the conversation.
  const before = talk.slice(0, -1).filter((message) => message.content).map(({ role, content }) => ({ role, content }));
  return {
    model: uid,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...before],
    temperature: Number(find("temperature").value),
    top_p: Number(find("top-p").value),
    max_tokens: Number(find("max-tokens").value) || undefined,
  };
}

/** Why it ended, in the runtime's word or "stopped"; empty where that was not said. */
async function listen(answer, bubble, signal) {
  const begun = performance.now();
  let first = 0;
  let tokens = 0;
  let ended = "";
  try {
    for await (const chunk of api.chat(asked(answer.model), signal)) {
      const choice = chunk.choices?.[0];
      const piece = choice?.delta?.content;
      if (piece) {
        if (!first) {
          first = performance.now();
          loads.get(answer.model)?.measure((first - begun) / 1000);
        }
        answer.content += piece;
        bubble.redraw();
      }
      ended = choice?.finish_reason ?? ended;
      tokens = chunk.usage?.completion_tokens ?? tokens;
    }
    if (!answer.content) answer.failed = "The model ended its answer at once, without a word.";
  } catch (error) {
    if (error.name === "AbortError") ended = "stopped";
    else answer.failed = error.message;
  }
  answer.figures = told(first ? first - begun : 0, first ? performance.now() - first : 0, tokens, ended);
  return ended;
}

/** Milliseconds as this page has measured them: to the first token, and from there to the end. */
function told(first, rest, tokens, ended) {
  const parts = [];
  if (first) parts.push(`first token after ${(first / 1000).toFixed(2)} s`);
  if (tokens > 1 && rest > 0) parts.push(`${((tokens - 1) / (rest / 1000)).toFixed(1)} tokens/s`, `${tokens} tokens`);
  if (ended === "length") parts.push("cut at the longest answer");
  if (ended === "stopped") parts.push("stopped");
  return parts.join(" · ");
}
