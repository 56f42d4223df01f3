// The live decision matrix: one row a model, from small to large, changed cell by cell.
import { $, bar, bytes, cell, count, el, fill, fixed, ms, notice, row, setText, t, words } from "./page.js";

const FASTEST_MS = 0.1, SLOWEST_MS = 10_000; // the ends of the latency scale, which is logarithmic

let last = null;
const rows = new Map();

export function show(tiers) {
  last = tiers;
  render();
}

export function render() {
  if (!last) return;
  const { data, router, routers, reload_error: reload } = last;
  setText($("matrix-note"), t("matrix.note") + (routers > 1 ? ` ${t("matrix.routers", { router, routers })}` : ""));
  notice($("matrix-problem"), reload && t("matrix.reload", { error: reload }));
  for (const [model, node] of rows) {
    if (!data.some((one) => one.model === model)) { node.remove(); rows.delete(model); }
  }
  for (const one of data) {
    if (!rows.has(one.model)) {
      const fresh = row({}, ...COLUMNS.map(([label, kind]) =>
        label === "matrix.model" ? el("th", { role: "rowheader", scope: "row" }) : cell("", { class: kind })));
      rows.set(one.model, fresh);
      $("matrix").append(fresh);
    }
    const cells = rows.get(one.model).children;
    COLUMNS.forEach(([label, , facts, make], place) => {
      if (place) cells[place].setAttribute("data-label", t(label));
      fill(cells[place], facts(one), () => make(one));
    });
  }
}

const small = (text) => el("small", {}, text);

/** Where `value` ms lies on the scale, from 0 to 1. */
function place(value) {
  const share = Math.log(value / FASTEST_MS) / Math.log(SLOWEST_MS / FASTEST_MS);
  return Math.min(1, Math.max(0, share));
}

const COLUMNS = [
  ["matrix.model", "", (m) => [m.model, m.tier, m.good_for], (m) => [
    el("span", { class: "name" }, m.model), m.tier && el("span", { class: "chip" }, m.tier), m.good_for && small(m.good_for),
  ]],
  ["matrix.dimensions", "number", (m) => [m.dimensions, m.sizes], (m) => [
    count(m.dimensions), m.sizes !== String(m.dimensions) && small(words.language === "zh" ? m.sizes.replace(" or ", "、").replace(" to ", "–") : m.sizes),
  ]],
  ["matrix.context", "number", (m) => m.max_tokens, (m) => [t("matrix.tokens", { n: count(m.max_tokens) })]],
  ["matrix.quality", "", (m) => m.quality, (m) => {
    const known = Object.entries(m.quality);
    if (!known.length) return ["–"];
    return known.map(([name, points]) => el("span", { class: "pair" },
      el("span", { class: "label" }, name === "default" ? t("matrix.other") : name), " ", fixed(points, 1)));
  }],
  ["matrix.memory", "number", (m) => m.memory_bytes, (m) => [bytes(m.memory_bytes)]],
  ["matrix.replicas", "number", (m) => m.replicas_ready, (m) => [
    el("span", { class: m.replicas_ready ? "dot up" : "dot down", "aria-hidden": "true" }),
    m.replicas_ready ? t("matrix.ready", { n: count(m.replicas_ready) }) : t("matrix.not-ready"),
  ]],
  ["matrix.load", "number", (m) => [m.load.ahead_tokens, m.load.queued_tokens], (m) => [
    t("matrix.ahead", { n: count(m.load.ahead_tokens) }), small(t("matrix.queued", { n: count(m.load.queued_tokens) })),
  ]],
  ["matrix.measured", "latency", (m) => [m.p50_ms, m.p95_ms, m.answers, m.predicted_ms], (m) => {
    const predicted = m.predicted_ms["32"];
    const marks = predicted ? [["mark", place(predicted), place(predicted)]] : [];
    if (m.p50_ms === null) return [bar("range", marks), small(t("matrix.unmeasured"))];
    return [
      el("span", {}, t("matrix.range", { p50: ms(m.p50_ms), p95: ms(m.p95_ms) })),
      bar("range", [["span", place(m.p50_ms), place(m.p95_ms)], ...marks]),
      small(t("matrix.answers", { n: count(m.answers) })),
    ];
  }],
  ["matrix.predicted", "number", (m) => m.predicted_ms, (m) => {
    const each = Object.entries(m.predicted_ms);
    return each.length ? each.map(([tokens, value]) => el("span", { class: "pair" },
      el("span", { class: "label" }, count(Number(tokens))), " ", ms(value))) : ["–"];
  }],
];
