"use strict";
const $ = selector => document.querySelector(selector);
const MOST_SHOWN = 12;      // steps of a text that are looked at
const PLACES = 9;           // texts between two sentences
const COOL = 3;             // looks after which a word that stays is cold
let model = null, key = "", running = null, again = null;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// --- the server ---

async function ask(path, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal});
  if (answer.ok) return answer;
  const {error} = await answer.json().catch(() => ({error: {message: `The server answers ${answer.status}.`}}));
  throw Object.assign(new Error(error.message), {status: answer.status, param: error.param});
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const content = JSON.parse(data);
      if (content.error) throw Object.assign(new Error(content.error.message), {param: content.error.param});
      yield content;
    }
  }
}

async function connect() {
  for (;;) {
    try {
      model = (await (await ask("v1/models")).json()).data[0];
      break;
    } catch (error) {
      if (error.status === 401) return unlock(error);
      $("#status").textContent = error.status === 503 ? "loading the model …" : "no answer from the server";
      await new Promise(done => setTimeout(done, 1000));
    }
  }
  $("#unlock").hidden = true;
  $("#error").hidden = true;
  $("#name").textContent = document.title = model.id;
  $("#status").textContent = "ready";
  build();
}

function unlock(error) {
  $("#status").textContent = "locked";
  $("#unlock").hidden = false;
  $("#unlock input").focus();
  if (key) tell(error.message);
}

$("#unlock").addEventListener("submit", event => {
  event.preventDefault();
  key = event.target.elements.key.value;
  connect();
});

// --- the form, as the model allows ---

function build() {
  const form = $("#write").elements;
  for (const label of document.querySelectorAll("[data-needs]"))
    label.hidden = !model.takes.includes(label.dataset.needs);
  for (const [name, steps] of Object.entries(model.qualities))
    form.quality.append(new Option(`${name}: ${steps} steps`, name));
  form.quality.value = "draft" in model.qualities ? "draft" : form.quality.options[0].value;
  for (const name of model.samplers) form.sampler.append(new Option(name));
  for (const name of model.classes) form.class_name.append(new Option(name));
  for (const [name, values] of Object.entries(model.guides)) {
    const field = values.length ? element("select", {}, new Option("any", "")) : element("input", {type: "number", step: "any", placeholder: "any"});
    for (const value of values) field.append(new Option(value));
    field.dataset.guide = name;
    $("#conditions").append(element("label", {}, element("span", {textContent: name}), field));
  }
  $("#conditions").hidden = [...$("#conditions").children].every(label => label.hidden);
  for (const field of document.querySelectorAll("[name=n]")) field.max = model.max_samples;
  $("#tab-between").hidden = !model.can.includes("interpolations");
  $("#tab-vary").hidden = !model.takes.includes("start");
  $("#tab-fill").hidden = !model.can.includes("infills");
  $("#write .go").focus({preventScroll: true});
}

const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  running?.abort();
  clear();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", event => {
    const move = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!move) return;
    const shown = tabs.filter(other => !other.hidden);
    const next = shown[(shown.indexOf(tab) + move + shown.length) % shown.length];
    choose(next);
    next.focus();
  });
}

document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.closest("form")?.requestSubmit();
});

// --- what is asked, and what comes ---

function clear() {
  $("#error").hidden = $("#between-view").hidden = true;
  $("#results").replaceChildren();
  $("#code").hidden = true;
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

function tell(sentence) {
  $("#error").textContent = sentence;
  $("#error").hidden = false;
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) return unlock(error);
  tell(error instanceof TypeError ? "The server does not answer; is it still running?" : error.message);
  const field = error.param && $(`form:not([hidden]) [name="${CSS.escape(error.param)}"]`);
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  if (field.closest("details")) field.closest("details").open = true;
  field.focus();
}

/** The filled fields of a form. A seed that JavaScript cannot hold stays a text, which the server refuses. */
function given(form) {
  const body = {model: model.id};
  for (const field of form.elements) {
    if (!field.name || field.value === "" || field.closest("[hidden]:not(form)")) continue;
    const numeric = field.type === "number" || field.type === "range" || (field.name === "seed" && Number.isSafeInteger(+field.value));
    body[field.name] = numeric ? +field.value : field.value;
  }
  const guides = [...form.querySelectorAll("[data-guide]")].filter(field => field.value !== "");
  if (guides.length)
    body.guides = Object.fromEntries(guides.map(field => [field.dataset.guide, field.type === "number" ? +field.value : field.value]));
  if (form.elements.seed && body.seed === undefined) body.seed = crypto.getRandomValues(new Uint32Array(1))[0];
  return body;
}

/** Runs one request of a form, which shows that it is at work. */
async function run(form, work) {
  running?.abort();
  clear();
  const control = running = new AbortController();
  const stop = form.querySelector(".stop"), go = form.querySelector(".go");
  go.disabled = true;
  if (stop) stop.hidden = false;
  $("#status").textContent = "working …";
  try {
    await work(control.signal);
    $("#status").textContent = "ready";
  } catch (error) {
    $("#status").textContent = error.name === "AbortError" ? "stopped" : "ready";
    fail(error);
  } finally {
    go.disabled = false;
    if (stop) stop.hidden = true;
    if (running === control) running = null;
  }
}

for (const stop of document.querySelectorAll(".stop")) stop.addEventListener("click", () => running?.abort());

function on(name, work) {
  const form = document.getElementById(name);
  form.addEventListener("submit", event => {
    event.preventDefault();
    if (model) run(form, signal => work(given(form), signal));
  });
}

on("write", write);
on("vary", write);

async function write(body, signal) {
  const steps = body.steps ?? model.qualities[body.quality ?? "draft"];
  const looks = Math.min(steps, MOST_SHOWN);
  showCode("completions", body);
  const asked = {...body, stream: true, show_steps: Array.from({length: looks}, (_, look) => Math.ceil(steps * (look + 1) / looks))};
  const answer = await ask("v1/completions", asked, signal);
  const cards = Array.from({length: body.n ?? 1}, () => card(body));
  for await (const {choices} of events(answer))
    for (const choice of choices) {
      if (choice.partial)  // the steps of a document are counted over all its blocks
        cards[choice.index].settle(choice.partial.text, ((choice.partial.step - 1) % steps + 1) / steps);
      else cards[choice.index].end(choice.text, choice.finish_reason);
    }
}

/** A text in the list, whose words are hot while they change from look to look. */
function card(body) {
  const text = element("div", {className: "text"}), bar = element("div", {className: "steps"});
  const tools = element("div", {className: "tools"});
  $("#results").append(element("li", {}, bar, text, tools));
  let words = [];
  const before = body.prompt ? [element("i", {className: "before", textContent: body.prompt})] : [];
  function settle(next, done) {
    const ages = new Map();
    for (const {word, age} of words) ages.set(word, Math.max(age, ages.get(word) ?? 0));
    words = next.split(/(?<=\s)(?=\S)/).map(word => ({word, age: ages.has(word) ? ages.get(word) + 1 : 0}));
    bar.style.setProperty("--done", done);
    text.replaceChildren(...before, ...words.map(({word, age}) => {
      const span = element("span", {textContent: word});
      span.style.setProperty("--heat", (1 - done) * Math.max(0, 1 - age / COOL));
      return span;
    }));
  }
  function end(whole, reason) {
    settle(whole, 1);
    bar.hidden = true;
    tools.append(tool("Copy", event => copy(whole, event.target)));
    if (!$("#tab-vary").hidden) tools.append(tool("Vary it", () => send("vary", "start", whole)));
    if (!$("#tab-between").hidden) {
      tools.append(tool("First of two", () => send("between", "first", whole)));
      tools.append(tool("Second of two", () => send("between", "second", whole)));
    }
    if (reason === "length") tools.append(element("span", {className: "meta", textContent: "cut at the token limit"}));
    if (body.seed !== undefined) tools.append(element("span", {className: "meta", textContent: `seed ${body.seed}`}));
  }
  settle("", 0);
  return {settle, end};
}

function tool(label, act) {
  const button = element("button", {type: "button", textContent: label});
  button.addEventListener("click", act);
  return button;
}

/** Brings a text to a field of another form. */
function send(name, field, text) {
  choose(document.getElementById(`tab-${name}`));
  const place = document.getElementById(name).elements[field];
  place.value = text;
  place.focus();
}

// --- between two sentences ---

on("between", async (body, signal) => {
  body.n = PLACES;
  body.strategy = "beam";  // the ends are near the given sentences, and places near each other give similar texts
  showCode("interpolations", body);
  const {choices} = await (await ask("v1/interpolations", body, signal)).json();
  const view = $("#between-view"), slider = view.querySelector("input"), text = view.querySelector(".text");
  function show() {
    const words = choices[slider.value].text.split(/(?<=\s)(?=\S)/);
    const old = new Set(text.textContent.split(/(?<=\s)(?=\S)/));
    text.replaceChildren(...words.map(word => {
      const span = element("span", {textContent: word});
      if (!old.has(word)) span.style.setProperty("--heat", .8);
      return span;
    }));
    requestAnimationFrame(() => setTimeout(() => text.querySelectorAll("span").forEach(span => span.style.setProperty("--heat", 0)), 60));
  }
  slider.max = choices.length - 1;
  slider.value = Math.floor(choices.length / 2);
  slider.oninput = show;
  text.replaceChildren();
  view.hidden = false;
  show();
  slider.focus();
});

$("#invent").addEventListener("click", () => {
  if (model) run($("#between"), async signal => {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    const {choices} = await (await ask("v1/completions", {n: 2, seed}, signal)).json();
    [$("#between").elements.first.value, $("#between").elements.second.value] = choices.map(choice => choice.text);
  }).then(() => $("#between .go").focus());
});

// --- gaps ---

on("fill", async (body, signal) => {
  showCode("infills", body);
  const {choices} = await (await ask("v1/infills", body, signal)).json();
  for (const choice of choices) {
    const made = card({...body, prompt: undefined});
    made.end(choice.text, "stop");
    $("#results").lastChild.querySelector(".text").replaceChildren(...marked(body.text, choice.text));
  }
});

/** A filled text whose fillings are marked; kept words are found one after the other. */
function marked(gapped, whole) {
  const parts = [];
  let place = 0;
  const kept = gapped.split("___");
  kept.forEach((words, index) => {
    const found = index === kept.length - 1 && words ? whole.lastIndexOf(words) : whole.indexOf(words, place);
    const at = index === kept.length - 1 && !words ? whole.length : found < 0 ? place : found;
    if (at > place) parts.push(element(index ? "mark" : "span", {textContent: whole.slice(place, at)}));
    parts.push(element("span", {textContent: whole.slice(at, at + words.length)}));
    place = at + words.length;
  });
  return parts;
}

$("#vary [name=strength]").addEventListener("input", event => {
  $("#vary output").textContent = (+event.target.value).toFixed(2);
});

connect();
