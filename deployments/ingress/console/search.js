// The search playground: one query, some texts, and the order in which a reranker puts them.
import { because } from "./decisions.js";
import { $, call, cell, count, el, fixed, ms, row, setText, t, table, words } from "./page.js";

const QUERY = "How do I get my money back?";
const TEXTS = [
  "Refunds are paid within five days of the return.", "Our office is closed on public holidays.",
  "退款将在退货后五天内支付。", "The parcel was delivered to a neighbour.",
];

let offered = "";
let latest = null, shown = null; // the last request that was sent, and what one came to: {texts, problem, answer, times}

export function start() {
  $("query").value = QUERY;
  $("documents").value = TEXTS.join("\n");
  $("search").addEventListener("submit", (event) => { event.preventDefault(); rank(); });
  render();
}

/** Show the part where there are rerankers, and fill its choice; what is chosen stays chosen. */
export function offer(tiers) {
  $("search-part").hidden = !tiers.rerankers.length;
  const facts = JSON.stringify([words.language, tiers.rerank_tiers, tiers.rerankers.map((one) => one.model)]);
  if (facts === offered) return;
  offered = facts;
  const chosen = $("reranker").value || "auto", option = (name) => el("option", { value: name }, name);
  $("reranker").replaceChildren(option("auto"), ...Object.keys(tiers.rerank_tiers).map(option), ...tiers.rerankers.map((one) => option(one.model)));
  $("reranker").value = chosen;
}

async function rank() {
  setText($("search-said"), t("play.asking"));
  $("search-said").className = "said";
  const asked = latest = {};
  try {
    asked.texts = $("documents").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const body = { query: $("query").value, documents: asked.texts, model: $("reranker").value || "auto" };
    const { data, headers } = await call("v1/rerank", { body });
    Object.assign(asked, { answer: data, total: Number(headers.get("x-total-ms")) });
  } catch (problem) {
    asked.problem = problem.message;
  }
  if (asked !== latest) return; // another request was sent meanwhile, and its answer counts
  shown = asked;
  render();
}

export function render() {
  const { problem, answer, total, texts } = shown ?? {};
  $("search-said").className = problem ? "said problem" : "said";
  setText($("search-said"), problem ?? (answer
    ? t("search.ranked", { model: answer.model, n: count(answer.results.length), ms: ms(total) }) : t("search.invite")));
  $("ranked").replaceChildren(...(answer ? [el("p", { class: "because" }, because(answer.routing.reason)), results(answer, texts)] : []));
}

function results({ results, routing }, texts) {
  const made = table(t("search.caption", { score: routing.score }), [[t("search.rank"), true], [t("play.text")], [t("search.score"), true]],
    results.map((one, place) => row({},
      cell(t("search.rank"), { class: "number" }, count(place + 1)),
      el("th", { role: "rowheader", scope: "row" }, texts[one.index]),
      cell(t("search.score"), { class: "number" }, fixed(one.relevance_score, 3)))));
  made.className = "ranked";
  return made;
}
