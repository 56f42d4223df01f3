// What if: other rules, and where the last requests would have gone under them.
import { because } from "./decisions.js";
import { $, bar, call, cell, clock, count, el, fixed, ms, row, setText, t, table } from "./page.js";

const REFUSED = "refused";

let shown = null; // the last replay: {problem} or {found}
let inForce = null; // the policy that the service last said is in force

export function start() {
  $("whatif").addEventListener("submit", (event) => { event.preventDefault(); replay(); });
  $("policy").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); replay(); }
  });
  $("policy-reset").addEventListener("click", () => load(true));
  $("try-best").addEventListener("click", () => suggest(() => [top(), "[]"]));
  $("try-none").addEventListener("click", () => suggest(() => [inForce.match(/default_tier: *(\w+)/)?.[1] ?? "fast", "[]"]));
  $("try-current").addEventListener("click", async () => { await load(true); replay(); });
  render();
}

/** Put the policy in force into the editor, unless somebody is editing. */
export async function load(anew = false) {
  try {
    const { data } = await call("v1/what-if", { admin: true, text: true });
    if (anew || inForce === null || $("policy").value === inForce) $("policy").value = data;
    inForce = data;
    if (anew || shown?.problem) shown = null;
  } catch (problem) {
    shown = { problem: problem.message };
  }
  render();
}

/** Whether the editor still has nothing to show. */
export const waits = () => inForce === null;

/** The last tier of the policy in force: they stand from small to large. */
const top = () => [...inForce.matchAll(/^ +(fast|balanced|best):/gm)].at(-1)?.[1] ?? "best";

/** Put another routing in front of the tiers in force, and decide again. */
function suggest(make) {
  if (inForce === null) return;
  const [tier, rules] = make();
  $("policy").value = `routing:\n  default_tier: ${tier}\n  rules: ${rules}\n${inForce.slice(inForce.search(/^tiers:/m))}`;
  replay();
}

async function replay() {
  setText($("whatif-said"), t("play.asking"));
  try {
    shown = { found: (await call("v1/what-if", { body: $("policy").value, type: "application/yaml", admin: true })).data };
  } catch (problem) {
    shown = { problem: problem.message };
  }
  render();
}

export function render() {
  const { problem, found } = shown ?? {};
  $("whatif-said").className = problem ? "said problem" : "said";
  setText($("whatif-said"), problem ?? headline(found));
  $("whatif-answer").replaceChildren(...(found?.requests ? [source(found), found.moved.length && moves(found), compare(found)].filter(Boolean) : []));
}

function headline(found) {
  if (!found) return t("whatif.invite");
  if (!found.requests) return t("whatif.none");
  const total = count(found.requests), moved = found.moved.reduce((sum, way) => sum + way.requests, 0);
  return moved ? t("whatif.moved", { n: count(moved), total }) : t("whatif.stays", { total });
}

function source({ router, routers, since_s: since, until_s: until }) {
  return el("p", { class: "note" }, t(routers > 1 ? "whatif.sample" : "whatif.source", { router, routers, since: clock(since), until: clock(until) }));
}

const named = (model) => (model === REFUSED ? t("decisions.refused") : model);

function moves(found) {
  return table(t("whatif.moves"), [[t("whatif.way")], [t("whatif.requests"), true], [t("whatif.because")]], found.moved.map((way) => row({},
    el("th", { role: "rowheader", scope: "row" }, named(way.from), " → ", named(way.to)),
    cell(t("whatif.requests"), { class: "number" }, count(way.requests)),
    cell(t("whatif.because"), {}, ...Object.entries(way.reasons).map(([reason, n]) => el("div", {}, el("span", { class: "label" }, `${count(n)} × `), because(reason)))))));
}

function compare({ before, after, requests }) {
  const models = [...new Set([...Object.keys(before.models), ...Object.keys(after.models)])];
  const share = (side, model) => [count(side.models[model] ?? 0), bar("share", [["span", 0, (side.models[model] ?? 0) / requests]])];
  const line = (name, make) => row({}, el("th", { role: "rowheader", scope: "row" }, name),
    cell(t("whatif.before"), { class: "number" }, ...make(before)), cell(t("whatif.after"), { class: "number" }, ...make(after)));
  return table(t("whatif.compare"), [[""], [t("whatif.before"), true], [t("whatif.after"), true]], [
    ...models.map((model) => line(named(model), (side) => share(side, model))),
    line(t("whatif.p50"), (side) => [ms(side.p50_ms)]),
    line(t("whatif.p95"), (side) => [ms(side.p95_ms)]),
    line(t("whatif.quality"), (side) => [fixed(side.quality || null, 1)]),
    line(t("whatif.degraded"), (side) => [count(side.degraded)]),
    line(t("whatif.misses"), (side) => [count(side.misses)]),
  ]);
}
