// Collections: which models may make the vectors of their spaces, for which texts, and what a search keeps.
import { $, cell, el, fill, fixed, row, t, table } from "./page.js";

let last = null;

export function show(tiers) {
  last = tiers.collections;
  render();
}

const share = (value) => (value === null || value === undefined ? "–" : `${fixed(value * 100, 1)} %`);

function line(one) {
  const languages = Object.entries(one.by_language).map(([name, kept]) => el("span", { class: "pair" }, el("span", { class: "label" }, name), " ", share(kept)));
  return row({},
    el("th", { role: "rowheader", scope: "row" }, one.model),
    cell(t("spaces.space"), {}, el("code", {}, one.space)),
    cell(t("spaces.encoder"), {}, t(`encoder.${one.encoder}`)),
    cell(t("spaces.sides"), {}, t(`sides.${one.sides}`)),
    cell(t("spaces.keeps"), { class: "number" }, share(one.expected_recall)),
    cell(t("spaces.languages"), {}, ...(languages.length ? languages : ["–"])));
}

function one([name, collection]) {
  const heads = [[t("spaces.model")], [t("spaces.space")], [t("spaces.encoder")], [t("spaces.sides")], [t("spaces.keeps"), true], [t("spaces.languages")]];
  const values = { name, floor: share(collection.min_recall), recall: share(collection.recall) };
  const caption = collection.recall === null ? t("spaces.caption", values) : t("spaces.caption-recall", values);
  return table(caption, heads, collection.encoders.map(line));
}

export function render() {
  if (!last) return;
  const shown = Object.entries(last);
  $("spaces-part").hidden = !shown.length;
  fill($("collections"), shown, () => shown.map(one));
}
