// The page as a whole: what is polled, the language, and the key.
import * as decisions from "./decisions.js";
import * as matrix from "./matrix.js";
import { $, Refused, call, key, notice, setText, speak, t, translate, words } from "./page.js";
import * as playground from "./playground.js";
import * as search from "./search.js";
import * as spaces from "./spaces.js";
import * as whatif from "./whatif.js";

const EVERY_MS = 2000, AFTER_FAILURE_MS = 5000;

let state = "starting", paused = false, timer = 0, polling = false;
let askedFor; // the key that was refused when the dialog last opened by itself: it does so once for each

function say(next) {
  state = next;
  $("state").dataset.state = state;
  setText($("state"), t(`state.${state}`));
}

async function poll() {
  clearTimeout(timer);
  if (paused || polling || document.hidden) return;
  polling = true;
  const asked = key.get(); // another one may be given while this one is being refused
  try {
    const { data } = await call("v1/tiers");
    if (state !== "live" && !paused) say("live");
    matrix.show(data);
    spaces.show(data);
    playground.offer(data);
    search.offer(data);
    if (key.mayAdmin()) { // a key that may not is told so once, in both places
      if (!paused) await decisions.poll();
      if (!paused && whatif.waits()) await whatif.load();
    }
  } catch (problem) {
    if (!(problem instanceof Refused)) throw problem;
    if (!paused && asked === key.get()) say(problem.status === 401 ? "locked" : "offline");
    notice($("matrix-problem"), problem.message);
  } finally {
    polling = false;
    if (asked !== key.get()) poll();
    else if (!paused && state !== "locked") timer = setTimeout(poll, state === "live" ? EVERY_MS : AFTER_FAILURE_MS);
  }
}

function pause(on) {
  paused = on;
  setText($("pause"), t(paused ? "resume" : "pause"));
  if (paused) { clearTimeout(timer); say("paused"); } else { say("starting"); poll(); }
}

function render() {
  translate();
  setText($("pause"), t(paused ? "resume" : "pause"));
  setText($("language"), t("other-language"));
  $("language").lang = words.language === "zh" ? "en" : "zh-Hans";
  say(state);
  for (const part of [matrix, spaces, decisions, playground, search, whatif]) part.render();
}

// ---- the key: asked for once, and again when another one is refused

function askForKey(problem) {
  notice($("key-problem"), problem);
  $("key-value").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function useKey(value) {
  key.set(value);
  askedFor = undefined;
  $("key-dialog").close();
  if (!paused) { say("starting"); poll(); }
}

document.addEventListener("key-needed", ({ detail }) => {
  if (askedFor === key.get()) return;
  askedFor = key.get();
  askForKey(detail);
});
$("key").addEventListener("click", () => askForKey(null));
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); useKey($("key-value").value.trim()); });
$("key-forget").addEventListener("click", () => useKey(null));
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("pause").addEventListener("click", () => pause(!paused));
$("language").addEventListener("click", () => { speak(words.language === "zh" ? "en" : "zh"); render(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });

decisions.start();
playground.start();
search.start();
whatif.start();
render();
poll();
