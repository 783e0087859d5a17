// Follows running runs: requests what was appended, hands the episodes to browser.js, and shows the progress of each run.

const PAUSE = 1000; // ms between two requests while a run is in progress
const REST = 3000; // ms once all runs are complete, or while the server does not answer
const table = document.getElementById("runs");
const state = document.getElementById("state");
const data = JSON.parse(document.getElementById("report-data").textContent);
const counts = new Map(); // run -> { done, right, faults }
let seen = {};

function add(cell, text, kind = "td") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (kind === "th") { made.scope = "row"; made.className = "left"; }
  cell.append(made);
  return made;
}

function line(run) {
  const own = counts.get(run.name) ?? { done: 0, right: 0, scored: 0, faults: 0 };
  const done = run.steps ?? own.done;
  const row = document.createElement("tr");
  add(row, run.name, "th");
  const number = add(row, run.total ? `${done.toLocaleString("en")} of ${run.total.toLocaleString("en")}` : done.toLocaleString("en"));
  number.className = "left";
  const bar = add(row, "");
  bar.className = "bar";
  if (run.total) {
    const progress = document.createElement("progress");
    progress.max = run.total;
    progress.value = done;
    progress.setAttribute("aria-label", `${run.name}: ${done} of ${run.total}`);
    bar.append(progress);
  }
  const right = own.scored ? `${((100 * own.right) / own.scored).toFixed(1)}% of ${own.scored.toLocaleString("en")}` : "";
  add(row, run.loss === undefined ? right : `loss ${run.loss.toFixed(3)}`);
  add(row, own.faults ? String(own.faults) : "");
  add(row, [run.complete ? "complete" : "running", run.unreadable ? `${run.unreadable} lines cannot be read` : ""].filter(Boolean).join(", ")).className = "left";
  return row;
}

function tally(update) {
  for (const name of update.dropped) counts.delete(name);
  for (const one of update.episodes) {
    const own = counts.get(one.run) ?? { done: 0, right: 0, scored: 0, faults: 0 };
    own.done += 1;
    if (one.score !== "unscored") own.scored += 1;
    if (one.score === "right") own.right += 1;
    if (one.stop === "error") own.faults += 1;
    counts.set(one.run, own);
  }
}

async function ask() {
  const reply = await fetch("updates", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ seen }) });
  if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
  return reply.json();
}

let before = "";
let started = false;
async function follow() {
  let wait = REST;
  try {
    const update = await ask();
    seen = update.seen;
    tally(update);
    if (update.episodes.length || update.dropped.length || !started) document.dispatchEvent(new CustomEvent("fireact:episodes", { detail: update }));
    started = true;
    const now = JSON.stringify([update.runs, [...counts]]);
    if (now !== before) {
      table.replaceChildren(...update.runs.map(line));
      before = now;
    }
    const open = update.runs.filter((run) => !run.complete).length;
    const fresh = update.runs.some((run) => run.complete && !data.complete.includes(run.name)); // not in this page's report
    const said = open ? `Live: ${open} of ${update.runs.length} runs are running` : `All runs are complete${fresh ? "; reload the page for the report" : ""}`;
    if (state.textContent !== said) state.textContent = said;
    wait = update.more ? 0 : open ? PAUSE : REST;
  } catch {
    state.textContent = "Not connected; trying again";
  }
  setTimeout(follow, wait);
}
follow();
