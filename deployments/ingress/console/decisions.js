// The last decisions as they come. Each poll may reach another router: it brings the cursor of every router it has seen.
import { $, Refused, call, cell, clock, count, el, fill, known, ms, notice, row, setText, t } from "./page.js";

const SHOWN = 40, KEPT = 400; // bulk requests come by the hundred: interactive ones must outlive them

const cursors = new Map();
let decisions = [], missed = 0, routers = 0;
const rows = new Map();

export function start() {
  $("shown-priority").addEventListener("change", render);
}

export async function poll() {
  try {
    const after = [...cursors.values()].join(",");
    const { data } = await call(`v1/decisions${after && `?after=${encodeURIComponent(after)}`}`, { admin: true });
    cursors.set(data.router, data.next);
    while (cursors.size > Math.max(8, 2 * data.routers)) cursors.delete(cursors.keys().next().value); // of routers that are gone
    routers = data.routers;
    missed = data.missed;
    const seen = new Set(decisions.map((one) => one.id));
    decisions = [...data.data.filter((one) => !seen.has(one.id)), ...decisions].sort((a, b) => b.at_s - a.at_s).slice(0, KEPT);
    notice($("decisions-problem"), null);
  } catch (problem) {
    if (!(problem instanceof Refused)) throw problem;
    notice($("decisions-problem"), problem.status ? problem.message : null); // no answer at all is said once, at the top
    if (problem.status === 401 || problem.status === 403) decisions = [];
  }
  render();
}

export function render() {
  const priority = $("shown-priority").value;
  const shown = decisions.filter((one) => !priority || one.priority === priority).slice(0, SHOWN);
  const now = new Set(shown.map((one) => one.id));
  for (const [id, node] of rows) if (!now.has(id)) { node.remove(); rows.delete(id); }
  shown.forEach((one, place) => {
    if (!rows.has(one.id)) rows.set(one.id, row({ class: "new" }, ...COLUMNS.map(([, kind]) => cell("", { class: kind }))));
    const node = rows.get(one.id);
    COLUMNS.forEach(([label, , make], column) => {
      node.children[column].setAttribute("data-label", t(label));
      fill(node.children[column], one.id, () => make(one));
    });
    if ($("decisions").children[place] !== node) $("decisions").insertBefore(node, $("decisions").children[place] ?? null);
  });
  $("decisions-empty").hidden = shown.length > 0;
  setText($("decisions-note"), [
    t("decisions.note"), routers > 1 && t("decisions.routers", { seen: Math.min(cursors.size, routers), routers }),
    missed > 0 && t("decisions.missed", { n: count(missed) }),
  ].filter(Boolean).join(" "));
}

const chip = (text, kind = "") => el("span", { class: `chip ${kind}` }, text);

/** A reason as a sentence: `rule:long` is the rule's name in one. */
export function because(reason) {
  const [name, rule] = reason.split(":");
  return known(`reason.${name}`, reason, { rule });
}

const COLUMNS = [
  ["decisions.time", "time", (d) => [clock(d.at_s)]],
  ["decisions.tokens", "number", (d) => [d.tokens === 0 ? t("decisions.cached") : d.tokens !== null && count(d.tokens)]],
  ["decisions.language", "", (d) => [
    d.language ?? d.script ?? "–", d.mixed && chip(t("decisions.mixed")), d.code && chip(t("decisions.code")),
  ]],
  ["decisions.priority", "", (d) => [known(`priority.${d.priority}`, d.priority)]],
  ["decisions.asked", "", (d) => [d.tier ?? t("decisions.pinned")]],
  ["decisions.model", "name", (d) => [d.model ?? t("decisions.refused"), d.degraded && chip(t("decisions.degraded"), "warn")]],
  ["decisions.reason", "reason", (d) => [el("span", { title: d.reason }, because(d.reason))]],
  ["decisions.predicted", "number", (d) => [d.predicted_ms !== null && ms(d.predicted_ms)]],
  ["decisions.actual", "number", (d) => [d.actual_ms !== null && ms(d.actual_ms)]],
  ["decisions.budget", "number", (d) => [
    d.budget_ms !== null && ms(d.budget_ms),
    d.budget_ms !== null && d.actual_ms > d.budget_ms && chip(t("decisions.late"), "bad"),
  ]],
  ["decisions.outcome", "outcome", (d) => [d.outcome === "answered" ? t("outcome.answered") : chip(known(`outcome.${d.outcome}`, d.outcome), "bad")]],
];
