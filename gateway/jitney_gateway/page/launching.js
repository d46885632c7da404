// The form that launches a model: what it would send, whether that fits, and the same as a command.

import * as api from "./api.js";
import { copyButton, element, find, say, show } from "./dom.js";

const form = find("launch-form");
const fields = form.elements;
// Told only after so many milliseconds without a key.
const PAUSE = 350;
let families = new Map();
let clustered = false;
let timer = 0;
let asking = null;

export function begin(launched) {
  form.addEventListener("input", (event) => {
    if (event.target.name === "source" || event.target.name === "name") choose();
    refresh();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await submit(launched);
  });
  find("command-copy").append(copyButton(() => find("command").textContent));
  fill(fields.quantization, ["none"]);
}

/** What there is to choose from; kept until the page is loaded anew. */
export async function enter() {
  if (!families.size) {
    families = new Map((await api.families()).map((family) => [family.model_name, family]));
    const group = (label, wanted) => {
      const names = [...families.values()].filter((family) => family.is_builtin === wanted).map((family) => family.model_name);
      return names.length ? element("optgroup", { label }, names.map((name) => element("option", { value: name }, name))) : null;
    };
    fields.name.append(...[group("Your models", false), group("Catalogue", true)].filter(Boolean));
    if (families.has("qwen2.5-instruct")) fields.name.value = "qwen2.5-instruct";
    choose();
  }
  refresh();
}

/** The machine's memory, out of the overview. */
export function showMachine({ machines }) {
  clustered = !machines.length;
  const gpus = machines.reduce((sum, machine) => sum + machine.gpus, 0);
  const words = clustered ? "The cluster’s nodes are not seen from here." : gpus ? `This machine has ${gpus} GPU.` : "There is no GPU here: models compute on the CPU, and faster and in less memory with a quantization.";
  say(find("machine"), words);
  const hint = clustered ? "org/repo on the Hugging Face hub, pvc://claim/path or oci://image" : "org/repo on the Hugging Face hub, or a folder of this machine";
  say(find("reference-hint"), hint);
}

function choose() {
  const own = fields.source.value === "catalogue";
  show(find("from-catalogue"), own);
  show(find("from-repository"), !own);
  const family = families.get(fields.name.value);
  const sizes = (family?.model_specs ?? []).map((spec) => String(spec.model_size_in_billions).replace("_", "."));
  fill(fields.size, sizes, " B");
  if (!own) fill(fields.quantization, ["none", "int8", "int4"]);
  else if (family) offer(family.model_name);
  fields.context.placeholder = own && family?.context_length ? `up to ${family.context_length.toLocaleString("en")}` : "automatic";
}

/** Its quantizations, as far as they are served here. */
async function offer(name) {
  const engines = await api.engines(name).catch(() => ({}));
  if (fields.source.value !== "catalogue" || fields.name.value !== name) return;
  const served = Object.values(engines ?? {}).flat().flatMap((engine) => engine.quantizations);
  fill(fields.quantization, served.length ? served : ["none"]);
  refresh();
}

/** Its options, each once; what was chosen stays where it can. */
function fill(select, values, unit = "") {
  const before = select.value;
  select.replaceChildren(...[...new Set(values)].map((value) => element("option", { value }, value + unit)));
  if (values.includes(before)) select.value = before;
}

/** The body of the launch; null while what must be said is not said yet. */
function body() {
  const whole = (field) => (field.value === "" ? null : Number(field.value));
  const made = { model_engine: "transformers", model_format: fields.format.value, quantization: fields.quantization.value };
  if (fields.source.value === "catalogue") {
    if (!fields.name.value) return null;
    Object.assign(made, { model_name: fields.name.value, model_size_in_billions: fields.size.value || null });
  } else {
    const reference = fields.reference.value.trim();
    if (!reference) return null;
    const last = reference.replace(/\/+$/, "").split("/").pop();
    Object.assign(made, /^[\w.-]+\/[\w.-]+$/.test(reference) ? { model_name: reference } : { model_name: last, model_path: reference });
  }
  const more = { model_uid: fields.uid.value.trim() || null, device: fields.device.value === "auto" ? null : fields.device.value };
  Object.assign(made, more, { max_num_seqs: whole(fields.batch), max_model_len: whole(fields.context), replica: whole(fields.replicas) });
  return Object.fromEntries(Object.entries(made).filter(([, value]) => value !== null));
}

const FLAGS = {
  model_name: "-n",
  model_size_in_billions: "-s",
  model_format: "-f",
  quantization: "-q",
  model_uid: "-u",
  model_path: "--model-path",
  replica: "-r",
};

// What the command does by itself.
const USUAL = { model_engine: "transformers", model_format: "pytorch", quantization: "none", replica: 1, max_num_seqs: 16 };

function command(asked) {
  const quoted = (value) => (/^[\w./:@%+=-]+$/.test(String(value)) ? String(value) : `'${String(value).replaceAll("'", `'\\''`)}'`);
  const words = Object.entries(asked)
    .filter(([name, value]) => USUAL[name] !== value)
    .map(([name, value]) => `${FLAGS[name] ?? `--${name}`} ${quoted(value)}`);
  return `jitney launch -e ${location.origin} \\\n  ${words.join(" \\\n  ")}`;
}

function refresh() {
  show(find("launch-problem"), false);
  const asked = body();
  say(find("command"), asked ? command(asked) : "jitney launch …");
  clearTimeout(timer);
  asking?.abort();
  if (!asked) return tell("unknown", "Say which model.");
  timer = setTimeout(() => look(asked), PAUSE);
}

async function look(asked) {
  asking = new AbortController();
  try {
    const { verdict, message } = await api.fit(asked, asking.signal);
    tell(verdict, message);
  } catch (error) {
    if (error.name !== "AbortError") tell("refused", error.message);
  }
}

const VERDICTS = { fits: "It fits", does_not_fit: "It does not fit", unknown: "Not known yet", refused: "It would be refused" };

function tell(verdict, message) {
  find("fit").dataset.verdict = verdict;
  find("fit").replaceChildren(element("strong", {}, VERDICTS[verdict] ?? verdict), ` ${message}`);
}

async function submit(launched) {
  const asked = body();
  if (!asked) {
    fail("Say which model: a repository such as org/repo, or where its weights lie.");
    fields.reference.focus();
    return;
  }
  show(find("launch-problem"), false);
  find("launch-go").disabled = true;
  say(find("launch-go"), "Launching…");
  try {
    launched(await api.launch(asked));
    fields.uid.value = "";
  } catch (error) {
    fail(error.message);
  }
  find("launch-go").disabled = false;
  say(find("launch-go"), "Launch");
}

function fail(words) {
  say(find("launch-problem"), words);
  show(find("launch-problem"), true);
  find("launch-problem").scrollIntoView({ block: "nearest" });
}
