// What every part of the page uses: words, elements, numbers, and calls of the service.
import { CHINESE } from "./chinese.js";
import { ENGLISH } from "./english.js";

const STRINGS = { en: ENGLISH, zh: CHINESE };
const LANGUAGE = "embedding-router.language";
const KEY = "embedding-router.key";
const TIMEOUT_MS = 60_000;

export const $ = (id) => document.getElementById(id);

// ---- words

export const words = { language: kept() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en") };

function kept() {
  try {
    const language = localStorage.getItem(LANGUAGE);
    return language in STRINGS ? language : null;
  } catch { // storage is forbidden: the browser's language will do
    return null;
  }
}

export function speak(language) {
  words.language = language;
  try {
    localStorage.setItem(LANGUAGE, language);
  } catch { /* not kept, then */ }
}

/** The text under `key`, with {names} replaced by `values`. */
export function t(key, values = {}) {
  return STRINGS[words.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The text under `key` where there is one: a newer service may have words that this page does not know. */
export function known(key, otherwise, values = {}) {
  return key in STRINGS.en ? t(key, values) : otherwise;
}

/** Put the page's own words, those in its HTML, into the language. */
export function translate() {
  document.documentElement.lang = words.language === "zh" ? "zh-Hans" : "en";
  for (const [attribute, put] of [
    ["data-i18n", (node, text) => setText(node, text)],
    ["data-i18n-label", (node, text) => node.setAttribute("aria-label", text)],
    ["data-i18n-placeholder", (node, text) => node.setAttribute("placeholder", text)],
  ]) {
    for (const node of document.querySelectorAll(`[${attribute}]`)) put(node, t(node.getAttribute(attribute)));
  }
}

// ---- elements; texts become text nodes, never markup

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Change a text only when it is another: no screen reader speaks again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const filled = new WeakMap();

/** Fill `node` with what `make` returns, unless it was made of the same `facts` in the same language before. */
export function fill(node, facts, make) {
  const now = JSON.stringify([words.language, facts]);
  if (filled.get(node) === now) return;
  filled.set(node, now);
  node.replaceChildren(...make().filter(Boolean));
}

export const cell = (label, properties, ...children) => el("td", { role: "cell", "data-label": label, ...properties }, ...children);
export const row = (properties, ...cells) => el("tr", { role: "row", ...properties }, ...cells);

export function table(caption, heads, rows) {
  const columns = heads.map(([text, numeric]) => el("th", { role: "columnheader", scope: "col", class: numeric && "number" }, text));
  return el("table", { role: "table" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, row({}, ...columns)),
    el("tbody", { role: "rowgroup" }, ...rows));
}

// ---- numbers and times

const number = (value, digits = 0) =>
  value.toLocaleString(words.language === "zh" ? "zh-CN" : "en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const count = (value) => number(value);
export const fixed = (value, digits) => (value === null || value === undefined ? "–" : number(value, digits));

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  if (value >= 10_000) return `${number(value / 1000, 1)} s`;
  return `${number(value, value < 1 ? 2 : value < 100 ? 1 : 0)} ms`;
}

export function bytes(value) {
  if (value === null) return "–";
  return value >= 2 ** 30 ? `${number(value / 2 ** 30, 1)} GiB` : `${number(value / 2 ** 20)} MiB`;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

// ---- the service

export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    Object.assign(this, { status, code });
  }
}

let notAdmin; // the key that was told so

let heldKey = null; // the key, where the browser keeps nothing for a page

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY); } catch { return heldKey; } },
  mayAdmin: () => notAdmin === undefined || notAdmin !== key.get(),
  set: (value) => {
    heldKey = value || null;
    try { if (heldKey) sessionStorage.setItem(KEY, heldKey); else sessionStorage.removeItem(KEY); } catch { /* kept until the page goes */ }
  },
};

/** One call; `admin` says so where the service answers 403. Throws Refused with the sentence that the service gave. */
export async function call(path, { body, type = "application/json", admin = false, text = false } = {}) {
  const headers = {}, used = key.get();
  if (used) headers.authorization = `Bearer ${used}`;
  if (body !== undefined) headers["content-type"] = type;
  const cache = body === undefined ? "no-store" : "default"; // with "no-store" a POST would ask for vectors that no cache holds
  let answer, said;
  try {
    answer = await fetch(path, {
      method: body === undefined ? "GET" : "POST", headers, cache, credentials: "same-origin",
      body: body === undefined || typeof body === "string" ? body : JSON.stringify(body), signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    said = await answer.text();
  } catch {
    throw new Refused(t("error.offline"), 0, null);
  }
  if (text && answer.ok) return { data: said, headers: answer.headers };
  let data = null;
  try {
    data = JSON.parse(said);
  } catch { /* a proxy in between has spoken */ }
  if (answer.ok && data !== null) return { data, headers: answer.headers };
  const { message, code } = data?.error ?? { message: t("error.status", { status: answer.status }), code: null };
  if (answer.status === 401 && used === key.get()) document.dispatchEvent(new CustomEvent("key-needed", { detail: key.get() ? message : null }));
  if (answer.status === 401 && !key.get()) throw new Refused(t("error.key"), 401, code);
  if (answer.status === 403 && admin) notAdmin = key.get();
  if (answer.status === 403 && admin) throw new Refused(t("error.admin"), 403, code);
  throw new Refused(inOwnWords(message, code), answer.status, code);
}

/** The service's sentence; in another language than its own, what the error means stands in front. */
function inOwnWords(message, code) {
  return words.language === "zh" && `code.${code}` in STRINGS.zh ? `${t(`code.${code}`)}\n${message}` : message;
}

/** Show a sentence in a notice, or hide the notice. */
export function notice(node, message) {
  node.hidden = !message;
  setText(node, message ?? "");
}

/** A bar of `parts`, each [class, from, to] as shares of its width; what it shows is said in text beside it. */
export function bar(kind, parts) {
  return el("span", { class: `bar-track ${kind}`, "aria-hidden": "true" }, ...parts.map(([name, from, to]) => {
    const part = el("span", { class: name });
    part.style.setProperty("--from", `${from * 100}%`);
    part.style.setProperty("--to", `${to * 100}%`);
    return part;
  }));
}
