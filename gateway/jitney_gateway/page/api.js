// The front door's routes. Whatever goes wrong comes back as one error with the server's own words.

import { events } from "./sse.js";

const KEY = "jitney-key";

export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

// The key lives as long as this tab.
export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function request(method, path, body, signal) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The front door does not answer. Is it still running, and is this machine online?");
  }
  if (!response.ok) throw new Refused(response.status, await words(response));
  return response;
}

async function words(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    const said = typeof body.detail === "string" ? body.detail : body.error?.message;
    if (said) return said;
  } catch {
    // No JSON: whatever stands between here and the front door has answered.
  }
  return text.length && text.length < 2000 && !text.startsWith("<") ? text : `The server answered ${response.status} ${response.statusText}`;
}

const json = async (...asked) => (await request(...asked)).json();
const at = (uid) => `/v1/models/${encodeURIComponent(uid)}`;

export const auth = async () => (await json("GET", "/v1/cluster/auth")).auth === true;
export const overview = (signal) => json("GET", "/v1/overview", undefined, signal);
export const families = () => json("GET", "/v1/model_registrations/LLM?detailed=true");
export const engines = (name) => json("GET", `/v1/engines/${encodeURIComponent(name)}`);
export const fit = (launch, signal) => json("POST", "/v1/models/fit", launch, signal);
export const launch = async (body) => (await json("POST", "/v1/models?wait_ready=false", body)).model_uid;
export const terminate = (uid) => request("DELETE", at(uid));
export const log = async (uid) => (await request("GET", `${at(uid)}/logs?lines=300`)).text();

/** A streamed chat: OpenAI's chunks, one after the other. */
export async function* chat(body, signal) {
  const response = await request("POST", "/v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(response.status, chunk.error.message || "The model ended with an error.");
    yield chunk;
  }
  throw new Refused(0, "The answer broke off: the connection to the model was lost.");
}
