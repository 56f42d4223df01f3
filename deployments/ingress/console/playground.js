// The playground: one request, which model answers it, why the others do not, where its time went, how alike its texts are.
import { because } from "./decisions.js";
import { $, bar, call, cell, count, el, fixed, known, ms, row, setText, t, table, words } from "./page.js";

const COMPARED = 12; // texts in the matrix of likeness
const EXAMPLE = [
  "How do I reset my password?", "如何重置我的密码？", "Wie setze ich mein Passwort zurück?", "The train to Munich leaves at nine.",
];

let latest = null; // the last request that was sent
let shown = null; // what one came to: {texts, problem, explained}, and where it was embedded {answer, vectors, times}

export function start() {
  $("texts").value = EXAMPLE.join("\n");
  $("play").addEventListener("submit", (event) => { event.preventDefault(); ask(true); });
  $("explain").addEventListener("click", () => ask(false));
  $("compare").addEventListener("click", compare);
  $("texts").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(true); }
  });
  render();
}

let offered = "", models = [], begun = false;

/** Fill the choices of model and space from the matrix; what is chosen stays chosen. */
export function offer(tiers) {
  models = tiers.data.filter((m) => m.replicas_ready).map((m) => m.model);
  if (!begun && models.length) { begun = true; if (!latest) ask(true); } // the example, so that there is something to see
  const facts = JSON.stringify([words.language, tiers.tiers, tiers.collections, tiers.data.map((m) => [m.model, m.sizes])]);
  if (facts === offered) return;
  offered = facts;
  const chosen = $("model").value || "auto";
  const option = (name) => el("option", { value: name }, name);
  $("model").replaceChildren(
    el("optgroup", { label: t("play.tiers") }, option("auto"), ...Object.keys(tiers.tiers).map(option)),
    el("optgroup", { label: t("play.models") }, ...tiers.data.map((m) => option(m.model))));
  $("model").value = chosen;
  const sizes = (m) => (m.sizes.includes(" to ") ? [m.dimensions] : m.sizes.match(/\d+/g));
  $("spaces").replaceChildren(
    ...Object.keys(tiers.collections).map(option), ...tiers.data.filter((m) => m.space.startsWith(`${m.model}/`)).flatMap((m) => sizes(m).map((size) => option(`${m.model}/${size}`))));
}

function texts() {
  const all = $("texts").value;
  if ($("whole").checked) return all.trim() ? [all] : [];
  return all.split("\n").map((line) => line.trim()).filter(Boolean);
}

function request() {
  const body = { input: texts(), model: $("model").value || "auto", on_budget_miss: $("miss").value, priority: $("priority").value };
  if (!body.input.length) throw new Error(t("play.no-text"));
  if ($("space").value.trim()) {
    body.space = $("space").value.trim();
    if (body.model === "auto") delete body.model; // a space names its model
  }
  const budget = $("budget").value.trim();
  if (budget) {
    body.latency_budget_ms = Number(budget);
    if (!(body.latency_budget_ms > 0 && Number.isFinite(body.latency_budget_ms))) throw new Error(t("play.budget-number"));
  }
  if ($("side").value) body.input_type = $("side").value;
  return body;
}

async function ask(embeds) {
  for (const name of ["embed", "explain"]) $(name).setAttribute("aria-disabled", "true");
  setText($("said"), t("play.asking"));
  $("said").className = "said";
  const asked = latest = {};
  try {
    const body = request();
    asked.texts = body.input;
    asked.explained = (await call("v1/route", { body })).data; // first: afterwards the texts are in the cache
    if (embeds) {
      const { data, headers } = await call("v1/embeddings", { body: { ...body, encoding_format: "base64" } });
      asked.answer = data.routing;
      asked.vectors = data.data.map((one) => floats(one.embedding));
      asked.times = Object.fromEntries(["queue", "inference", "total"].map((name) => [name, Number(headers.get(`x-${name}-ms`))]));
    }
  } catch (problem) {
    asked.problem = problem.message;
  }
  if (asked !== latest) return; // another request was sent meanwhile, and its answer counts
  shown = asked;
  for (const name of ["embed", "explain"]) $(name).removeAttribute("aria-disabled");
  render();
}

/** The same texts with every model: their grids side by side. */
async function compare() {
  const asked = latest = { grids: [] };
  setText($("said"), t("play.asking"));
  $("said").className = "said";
  try {
    asked.texts = request().input;
    for (const model of models) {
      asked.grids.push(await grid(model, asked.texts));
      if (asked !== latest) return;
    }
  } catch (problem) {
    asked.problem = problem.message;
  }
  if (asked !== latest) return;
  shown = asked;
  render();
}

async function grid(model, input) {
  try {
    const { data } = await call("v1/embeddings", { body: { input, model, encoding_format: "base64" } });
    return { model, space: data.routing.space, vectors: data.data.map((one) => floats(one.embedding)) };
  } catch (problem) {
    return { model, problem: problem.message };
  }
}

function grids() {
  return el("div", { class: "grids" }, ...shown.grids.map(({ model, problem, vectors, space }) => el("section", { class: "part" },
    el("h3", {}, model), problem ? el("p", { class: "note" }, problem) : alike(vectors, space, shown.texts))));
}

function floats(base64) {
  return new Float32Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
}

export function render() {
  const { problem, explained, answer, times, vectors } = shown ?? {};
  $("said").className = problem ? "said problem" : "said";
  setText($("said"), problem ?? headline());
  if (shown?.grids && !problem) { $("answer").replaceChildren(grids()); return; }
  $("answer").replaceChildren(...(explained ? [
    facts(explained, answer),
    answer && time(answer, times),
    candidates(explained),
    answer && answer.model !== explained.decision.model && el("p", { class: "note" }, t("play.other", { model: explained.decision.model ?? "–" })),
    vectors && alike(vectors, answer.space, shown.texts),
  ].filter(Boolean) : []));
}

function headline() {
  if (!shown) return t("play.invite");
  const { explained, answer, times } = shown;
  if (shown.grids) return t("play.compared", { n: count(shown.grids.length) });
  if (answer) return t("play.answered", { model: answer.model, ms: ms(times.total) });
  return explained.decision.model ? t("play.would", { model: explained.decision.model }) : t("play.would-refuse");
}

function facts(explained, answer) {
  const { features, decision } = explained, { reason, space, degraded, tier } = answer ?? decision;
  const recall = (answer ?? decision).expected_recall;
  const yes = [
    [t("play.tokens"), count(answer?.tokens ?? features.tokens)],
    [t("play.language"), features.language ?? t("play.unknown")],
    features.script && [t("play.script"), features.script],
    answer?.cached && [t("play.cached"), count(answer.cached)],
    answer?.truncated?.length && [t("play.truncated"), answer.truncated.map((place) => place + 1).join(", ")],
    recall && [t("play.recall"), `${fixed(recall * 100, 1)} %`],
  ].filter(Boolean);
  const flags = [features.mixed && "play.mixed", features.code && "play.code", degraded && "play.degraded"].filter(Boolean);
  return el("div", { class: "facts" },
    el("p", { class: "because" }, because(reason)),
    el("p", {}, tier && el("span", { class: "chip" }, tier), space && el("code", {}, space),
      ...yes.map(([name, value]) => el("span", { class: "pair" }, el("span", { class: "label" }, name), " ", value)),
      ...flags.map((name) => el("span", { class: name === "play.degraded" ? "chip warn" : "chip" }, t(name)))));
}

function time(answer, times) {
  const rest = Math.max(0, times.total - times.queue - times.inference), most = Math.max(times.total, answer.predicted_ms) || 1;
  const from = [0, rest, rest + times.queue, times.total].map((value) => Math.min(1, value / most));
  const key = (kind, name, value) => el("span", { class: "pair" }, kind && el("i", { class: `swatch ${kind}` }), el("span", { class: "label" }, name), " ", ms(value));
  return el("section", { class: "part" },
    el("h3", {}, t("play.time")),
    el("p", {}, key("", t("play.predicted"), answer.predicted_ms), key("", t("play.measured"), times.total)),
    bar("stack", [["router", from[0], from[1]], ["queue", from[1], from[2]], ["inference", from[2], from[3]], ["mark", answer.predicted_ms / most, answer.predicted_ms / most]]),
    el("p", {}, key("router", t("play.router"), rest), key("queue", t("play.queue"), times.queue), key("inference", t("play.inference"), times.inference)));
}

function candidates(explained) {
  const why = (one) => (one.chosen ? because(explained.decision.reason) : known(`why.${one.why}`, one.why));
  const made = table(t("play.models-title"), [
    [t("decisions.model")], [t("decisions.predicted"), true], [t("play.waiting"), true], [t("play.why")],
  ], explained.models.map((one) => row({ class: one.chosen ? "chosen" : "" },
    el("th", { role: "rowheader", scope: "row" }, one.model, one.chosen && el("span", { class: "chip good" }, t("play.chosen"))),
    cell(t("decisions.predicted"), { class: "number" }, ms(one.predicted_ms)),
    cell(t("play.waiting"), { class: "number" }, ms(one.wait_ms)),
    cell(t("play.why"), {}, why(one)))));
  made.className = "candidates";
  return made;
}

/** Cosines of unit vectors, as a table that is a heat map too. */
function alike(vectors, space, texts) {
  if (vectors.length < 2) return el("p", { class: "note" }, t("play.alike-two"));
  const some = vectors.slice(0, COMPARED);
  const cosines = some.map((a) => some.map((b) => a.reduce((sum, value, place) => sum + value * b[place], 0)));
  const pairs = cosines.flatMap((line, i) => line.filter((_, j) => j > i));
  const least = Math.min(...pairs), spread = Math.max(...pairs) - least || 1;
  const label = (place) => `${place + 1}`;
  const made = table(t("play.alike"), [[t("play.text")], ...some.map((_, place) => [label(place), true])],
    cosines.map((line, i) => row({},
      el("th", { role: "rowheader", scope: "row", title: texts[i] }, el("span", { class: "label" }, label(i)), " ", texts[i]),
      ...line.map((value, j) => {
        const made = cell(label(j), { class: i === j ? "number self" : "number heat" }, i === j ? "·" : fixed(value, 2));
        if (i === j) made.setAttribute("aria-label", fixed(1, 2));
        else made.style.setProperty("--heat", `${Math.round(((value - least) / spread) * 100)}%`);
        return made;
      }))));
  made.className = "alike";
  return el("section", { class: "part" },
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("play.alike") }, made),
    el("p", { class: "note" }, t("play.alike-note", { space }), vectors.length > COMPARED ? ` ${t("play.alike-cut", { n: COMPARED })}` : ""));
}
