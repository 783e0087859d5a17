// The browser of trajectories: filters, a list that creates only its visible rows, and one or two episodes to read.
// Text of models and tools becomes text nodes only: no markup is ever parsed here.
// The whole state is in the fragment of the address, so a link restores the view.

const data = JSON.parse(document.getElementById("report-data").textContent);
const { stops, shortened } = data.browser;
const $ = (id) => document.getElementById(id);
const form = document.querySelector("form.filters");
const fold = form.querySelector(".fold");
const list = $("list");
const detail = $("detail");

const runs = new Map(); // name -> { name, label, series }
const episodes = new Map(); // id -> episode
const asked = new Map(); // question -> Map(run -> episode)

// ---------------------------------------------------------------------------------------------------- episodes

// Live, a run that the report shows has the name of its agent there: the report's links and colours hold for it.
const agentOf = (run) => data.measures?.[run] ?? run;
const renamed = (key) => {
  const run = Object.keys(data.measures ?? {}).find((name) => key.startsWith(`${name}/`));
  return run ? agentOf(run) + key.slice(run.length) : key;
};

function take(found) {
  for (const one of found) {
    one.from = one.run;
    one.run = agentOf(one.run);
    one.key = `${one.run}/${one.task}/${one.id}/${one.method}/${one.seed}`;
    one.asked = JSON.stringify([one.task, one.id, one.seed]);
    one.kinds = [...new Set(one.steps.filter((step) => step.noise).map((step) => step.noise))];
    one.words = null; // the text to search, built when first needed
    episodes.set(one.key, one);
    if (!asked.has(one.asked)) asked.set(one.asked, new Map());
    asked.get(one.asked).set(one.run, one);
  }
}

function drop(run) {
  for (const [key, one] of episodes) {
    if (one.from !== run) continue;
    episodes.delete(key);
    asked.get(one.asked)?.delete(one.run);
  }
}

function wordsOf(one) {
  one.words ??= [
    one.question, one.answer, one.id, one.said, one.error,
    ...one.steps.flatMap((step) => [step.thought, ...(step.action ?? []), step.text, step.observation]),
  ].filter(Boolean).join("\n").toLowerCase();
  return one.words;
}

const beside = (one, run) => asked.get(one.asked)?.get(run);

function changeOf(one, run) {
  const other = beside(one, run);
  if (!other || one.score === "unscored" || other.score === "unscored") return "not both scored";
  const [before, after] = [one, other].map((each) => each.score === "right");
  if (before === after) return before ? "right both times" : "wrong both times";
  return before ? "right, then wrong" : "wrong, then right";
}

const FLIPS_FIRST = ["wrong, then right", "right, then wrong", "wrong both times", "right both times", "not both scored"];
const isWorthReading = (one) => (state.against ? changeOf(one, state.against) === FLIPS_FIRST[0] : ["wrong", "partly"].includes(one.score));

// ------------------------------------------------------------------------------------------------------- state

const SCORES = { right: "right", partly: "wrong, words in common", wrong: "wrong", unscored: "not scored" };
const MARKS = { right: "✓", partly: "~", wrong: "✗", unscored: "–" };
const label = (run) => runs.get(run)?.label ?? run;
// Each filter: the values of an episode, and how a value is written. An episode without values is only under "all".
const FACETS = {
  agent: { of: (one) => [one.run], write: label },
  change: { of: (one) => (state.against ? [changeOf(one, state.against)] : []) },
  task: { of: (one) => [one.task] },
  method: { of: (one) => [one.method] },
  score: { of: (one) => [one.score], write: (value) => SCORES[value], order: Object.keys(SCORES) },
  failure: { of: (one) => (one.failure ? [one.failure] : []) },
  noise: {
    of: (one) => (one.kinds.length ? ["any", ...one.kinds] : ["none seen"]),
    write: (value) => (value === "any" ? "any kind" : value === "none seen" ? "undisturbed" : value),
  },
};
const EMPTY = { q: "", agent: "", against: "", change: "", task: "", method: "", score: "", failure: "", noise: "", e: "" };
let state = { ...EMPTY };
let shown = []; // episodes that pass the filters, in order
let at = -1; // index of the chosen episode in it
let opening = false; // nothing was chosen yet: the first episode worth reading is opened

// Without a query, the pair of the report is compared, and the first flip is open.
function read() {
  const query = location.hash.slice(1).split("?").slice(1).join("?");
  opening = !query;
  const given = Object.fromEntries([...new URLSearchParams(query)].filter(([name]) => name in EMPTY));
  const known = (run) => !run || runs.has(run) || !runs.size;
  state = { ...EMPTY, ...given };
  for (const name of ["agent", "against"]) state[name] = agentOf(state[name]);
  state.e = renamed(state.e);
  if (opening && data.before !== data.after && [data.before, data.after].every((run) => runs.has(run) && of(run))) {
    Object.assign(state, { agent: data.before, against: data.after });
  }
  if (!known(state.agent)) state.agent = "";
  if (!known(state.against) || state.against === state.agent) state.against = "";
  pair();
}

// A comparison needs a first run.
function pair() {
  if (!state.against) state.change = "";
  else if (!state.agent) state.agent = episodes.get(state.e)?.run ?? [...runs.keys()].find((run) => run !== state.against) ?? "";
  if (state.agent && state.agent === state.against) state.against = state.change = "";
}

function fragment(given) {
  const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value));
  return query.size ? `#trajectories?${query}` : "#trajectories?all"; // without a query a pair would be chosen
}

function write() {
  const hash = fragment(state);
  document.querySelector("[data-view=trajectories]").setAttribute("href", hash);
  if (!$("trajectories").hidden && location.hash !== hash) history.replaceState(null, "", hash);
}

function change(given) {
  Object.assign(state, given);
  pair();
  refresh();
}

// ----------------------------------------------------------------------------------------------------- filters

let terms = [];
function passes(one, except) {
  for (const name in FACETS) {
    if (name !== except && state[name] && !FACETS[name].of(one).includes(state[name])) return false;
  }
  if (state.against && state.agent && one.run !== state.agent) return false;
  return !terms.length || terms.every((term) => wordsOf(one).includes(term));
}

function refresh({ keep = false } = {}) {
  terms = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  shown = [...episodes.values()].filter((one) => passes(one, null));
  if (state.against) shown = FLIPS_FIRST.flatMap((kind) => shown.filter((one) => changeOf(one, state.against) === kind));
  options();
  if (!episodes.has(state.e) && shown.length && (!keep || !state.e)) state.e = (shown.find(isWorthReading) ?? shown[0]).key;
  at = shown.findIndex((one) => one.key === state.e);
  if (at < 0 && !episodes.has(state.e)) state.e = "";
  const total = state.against ? of(state.agent) : episodes.size;
  say($("count"), `${shown.length.toLocaleString("en")} of ${total.toLocaleString("en")} ${state.against ? "questions" : "trajectories"}`);
  say($("total"), episodes.size.toLocaleString("en"));
  write();
  layout();
  if (at >= 0 && !keep) reveal();
  draw();
}

const of = (run) => [...episodes.values()].reduce((count, one) => count + (one.run === run), 0);

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Every filter lists its values with the number of episodes that pass all other filters.
function options() {
  for (const [name, facet] of Object.entries(FACETS)) {
    const counts = new Map();
    let all = 0;
    for (const one of episodes.values()) {
      const values = facet.of(one);
      for (const value of values) if (!counts.has(value)) counts.set(value, 0);
      if (!passes(one, name)) continue;
      all += 1;
      for (const value of values) counts.set(value, counts.get(value) + 1);
    }
    if (name === "agent" && state.against) for (const run of counts.keys()) counts.set(run, of(run));
    const values = [...counts.keys()];
    if (facet.order) values.sort((a, b) => facet.order.indexOf(a) - facet.order.indexOf(b));
    if (state[name] && !counts.has(state[name])) values.push(state[name]);
    const written = values.map((value) => [value, `${facet.write?.(value) ?? value} (${counts.get(value) ?? 0})`]);
    const empty = name === "agent" && state.against ? [] : [["", `all (${all})`]];
    fill(form.elements[name], [...empty, ...written], state[name]);
    form.elements[name].parentElement.hidden = name === "change" ? !state.against : values.length < 2 && !state[name] && name !== "failure" || !values.length;
  }
  const others = [...runs.keys()].filter((run) => run !== state.agent);
  fill(form.elements.against, [["", "no other"], ...others.map((run) => [run, label(run)])], state.against);
  form.elements.against.parentElement.hidden = runs.size < 2;
  const used = [...Object.keys(FACETS), "against"].filter((name) => state[name]).length;
  fold.textContent = used ? `Filters (${used})` : "Filters";
  if (form.elements.q.value !== state.q) form.elements.q.value = state.q;
}

function fill(select, wanted, value) {
  const now = JSON.stringify(wanted);
  if (select.dataset.now !== now) {
    select.replaceChildren(...wanted.map(([own, text]) => Object.assign(document.createElement("option"), { value: own, textContent: text })));
    select.dataset.now = now;
  }
  select.value = value;
  select.title = select.selectedOptions[0]?.textContent ?? ""; // a long name is cut where the field ends
}

// On a narrow screen all filters except search are folded.
fold.addEventListener("click", () => fold.setAttribute("aria-expanded", form.classList.toggle("open")));
let typing;
form.addEventListener("input", (event) => {
  if (event.target.name !== "q") return;
  clearTimeout(typing);
  typing = setTimeout(() => change({ q: event.target.value }), 90);
});
form.addEventListener("change", (event) => {
  const { name, value } = event.target;
  if (name !== "q") change({ [name]: value });
});
form.addEventListener("reset", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  change({ ...EMPTY, e: state.e });
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  change({ q: form.elements.q.value });
  list.focus();
});

// -------------------------------------------------------------------------------------------------------- list

const sizer = node("div", { role: "presentation", class: "sizer" });
list.append(sizer);
let height = 56; // of a row in px, measured when the list is first seen

function layout() {
  const probe = parseFloat(getComputedStyle(list).getPropertyValue("--row")) || 3.5;
  height = probe * parseFloat(getComputedStyle(document.documentElement).fontSize);
  sizer.style.height = `${shown.length * height}px`;
  paint(true);
}

let painted = "";
function paint(anew = false) {
  const first = Math.max(0, Math.floor(list.scrollTop / height) - 6);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + (list.clientHeight || 600)) / height) + 6);
  const now = `${first}-${last}-${at}`;
  if (now === painted && !anew) return;
  painted = now;
  sizer.replaceChildren(...shown.slice(first, last).map((one, place) => row(one, first + place)));
  if (at >= first && at < last) list.setAttribute("aria-activedescendant", `row-${at}`);
  else list.removeAttribute("aria-activedescendant");
}
list.addEventListener("scroll", () => requestAnimationFrame(() => paint()), { passive: true });
new ResizeObserver(() => paint(true)).observe(list);

// A row does not show what all rows have in common.
const several = (name) => !state[name] && !form.elements[name].parentElement.hidden;

function row(one, place) {
  const other = state.against && beside(one, state.against);
  const facts = [
    one.failure, one.kinds.length ? `noise: ${one.kinds.join(", ")}` : null,
    several("task") ? one.task : null, count(one.steps.length, "step"), one.method, several("agent") ? label(one.run) : null,
  ];
  const marks = [mark(one)];
  if (state.against) marks.push(node("span", { class: "to", "aria-hidden": "true" }, "→"), other ? mark(other) : node("span", { class: "mark unscored" }, "·", hidden("not asked")));
  return node(
    "div",
    { role: "option", id: `row-${place}`, class: "row", "aria-selected": String(place === at), "aria-posinset": place + 1, "aria-setsize": shown.length, top: `${place * height}px` },
    node("span", { class: "marks" }, ...marks),
    node("span", { class: "asked", dir: "auto" }, one.question?.split("\n")[0] ?? one.id),
    node("span", { class: "about" }, several("agent") ? swatch(one.run) : null, facts.filter(Boolean).join(" · ")),
  );
}

function mark(one) {
  return node("span", { class: `mark ${one.score}`, title: SCORES[one.score] }, node("span", { "aria-hidden": "true" }, MARKS[one.score]), hidden(`${SCORES[one.score]}: `));
}

list.addEventListener("click", (event) => {
  const found = event.target.closest("[role=option]");
  if (!found) return;
  choose(Number(found.id.slice(4)));
  if (matchMedia("(max-width: 56rem)").matches) detail.scrollIntoView(); // on a narrow screen it is below the list
});

function choose(place) {
  if (!shown.length) return;
  at = Math.max(0, Math.min(shown.length - 1, place));
  state.e = shown[at].key;
  write();
  reveal();
  paint();
  draw();
}

function reveal() {
  const top = at * height;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
}

const page = () => Math.max(1, Math.floor(list.clientHeight / height) - 1);
const MOVES = {
  ArrowDown: () => at + 1, ArrowUp: () => at - 1, j: () => at + 1, k: () => at - 1,
  PageDown: () => at + page(), PageUp: () => at - page(), Home: () => 0, End: () => shown.length - 1,
};
list.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (MOVES[event.key]) choose(MOVES[event.key]());
  else if (event.key === "Enter" || event.key === " ") at < 0 ? choose(0) : detail.focus();
  else if (event.key === "/") form.elements.q.focus();
  else return;
  event.preventDefault();
});
detail.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") list.focus();
  else if (event.key === "j" || event.key === "k") choose(MOVES[event.key]());
  else if (event.key === "/") form.elements.q.focus();
  else return;
  event.preventDefault();
});
form.elements.q.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "Escape") return;
  event.preventDefault();
  if (event.key === "Escape" && event.target.value) change({ q: "" });
  else list.focus();
});

// ------------------------------------------------------------------------------------------------------ detail

// The detail is redrawn only for another episode, so that updates of a running run do not disturb the reader.
let drawn = "";
const place = node("span", { class: "muted" });
const link = node("a", {}, "Link to this trajectory");
const steps = [["Previous", -1], ["Next", 1]].map(([text, by]) => {
  const button = node("button", { type: "button", class: "quiet" }, text);
  button.addEventListener("click", () => choose(at + by));
  return { button, by };
});
const steering = node("div", { class: "steering" }, ...steps.map(({ button }) => button), place, link);

function draw() {
  const one = episodes.get(state.e);
  say(place, at < 0 ? "not among the filtered" : `${(at + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`);
  for (const { button, by } of steps) button.disabled = at < 0 ? by < 0 || !shown.length : at + by < 0 || at + by >= shown.length;
  const now = JSON.stringify([state.e, state.against, terms, one ? [...asked.get(one.asked).keys()] : episodes.size]);
  if (now === drawn) return;
  const other = drawn && JSON.parse(drawn)[0] !== state.e;
  drawn = now;
  if (!one) {
    detail.replaceChildren(node("p", { class: "empty" }, episodes.size ? "Choose a trajectory to read it." : "No trajectories yet."));
    return;
  }
  link.setAttribute("href", fragment({ e: one.key }));
  detail.replaceChildren(steering, ...reading(one, state.against && [beside(one, state.against)], terms, others(one)));
  if (other) detail.scrollTop = 0;
}

// The other runs with the same question: a click shows one of them beside this run.
function others(one) {
  const found = [...asked.get(one.asked).values()].filter((each) => each.run !== one.run && each.run !== state.against);
  if (!found.length) return null;
  return node(
    "p",
    { class: "others" },
    node("span", { class: "muted" }, "Compare with "),
    ...found.map((each) => {
      const button = node("button", { type: "button", class: "quiet" }, mark(each), ` ${label(each.run)}`);
      button.addEventListener("click", () => change({ agent: one.run, against: each.run }));
      return button;
    }),
  );
}

// A question and one or more of its episodes; also draws the cases of the report.
function reading(one, partners, words, extra, { brief = false } = {}) {
  const [question, ...choices] = (one.question ?? "").split("\n");
  const facts = [one.task, one.id, one.kind, one.hops && !one.kind?.includes("hop") && count(one.hops, "hop")].filter(Boolean).join(" · ");
  const head = node(
    "header",
    { class: "asked-head" },
    node("p", { class: "muted facts-line" }, facts),
    node("h3", { class: "question", dir: "auto" }, ...marked(question, words)),
    choices.length ? node("p", { class: "choices", dir: "auto" }, ...marked(choices.join("\n"), words)) : null,
    one.answer ? node("p", { class: "gold" }, node("span", { class: "label" }, "Right answer"), node("strong", { dir: "auto" }, ...marked(one.answer, words))) : null,
    extra,
  );
  const panels = [one, ...(partners || [])].map((each) => (each ? panel(each, words, brief) : node("div", { class: "run none" }, node("p", { class: "muted" }, `${label(state.against)} was not asked this question.`))));
  return [head, node("div", { class: "side" }, ...panels)];
}

function panel(one, words, brief) {
  const used = [
    count(one.steps.length, "step"), one.calls && one.calls !== one.steps.length ? count(one.calls, "call") : null,
    one.read && `${number(one.read)} tokens in${one.cached ? ` (${number(one.cached)} cached)` : ""}`,
    one.written && `${number(one.written)} out`, one.seconds && `${one.seconds.toFixed(1)} s`,
    one.cost && `$${one.cost.toPrecision(2)}`, one.seed ? `seed ${one.seed}` : null,
  ];
  const ended = one.failure ?? stops[one.stop] ?? one.stop;
  const name = label(one.run);
  return node(
    "div",
    { role: "group", class: `run s${runs.get(one.run)?.series ?? 0}`, "aria-label": name },
    node(
      "header",
      {},
      node("h4", {}, name),
      node("ul", { class: "badges", "aria-label": "Outcome" }, node("li", { class: one.score }, node("span", { "aria-hidden": "true" }, MARKS[one.score]), ` ${one.verdict}`), node("li", {}, ended)),
      node("p", { class: "muted used" }, [one.method, ...used].filter(Boolean).join(" · ")),
    ),
    node("ol", { class: "steps" }, ...one.steps.map((step, place) => stepOf(step, words, `${place + 1} of ${name}`, brief))),
    one.said !== undefined ? node("p", { class: "said" }, node("span", { class: "label" }, "Answered"), node("strong", { dir: "auto" }, ...marked(one.said, words))) : null,
    one.error ? node("p", { class: "fault" }, node("span", { class: "label" }, "Fault"), ...marked(one.error, words)) : null,
  );
}

function stepOf(step, words, place, brief) {
  const notes = [step.joined && "in the same turn as the step before", step.repairs && `asked again ${count(step.repairs, "time")} before it wrote an action`, step.unlearned && "read by the student, not learned", step.unsaid && `${step.unsaid.toLocaleString("en")} more characters of its text are in the run's trajectories.jsonl`].filter(Boolean);
  return node(
    "li",
    { class: step.noise ? "noisy" : null },
    step.thought ? node("div", { class: "thought" }, node("span", { class: "label" }, "Thought"), node("p", { dir: "auto" }, ...marked(step.thought, words))) : null,
    step.action
      ? node("div", { class: "action" }, node("span", { class: "label" }, "Action"), node("code", { dir: "auto" }, node("b", {}, ...marked(step.action[0], words)), "[", ...marked(step.action[1], words), "]"))
      : node("div", { class: "action lost" }, node("span", { class: "label" }, "No action; it wrote"), node("code", { dir: "auto" }, ...marked(step.text ?? "nothing", words))),
    step.observation !== undefined ? observation(step, words, place, brief) : null,
    notes.length ? node("p", { class: "muted note" }, notes.join("; ")) : null,
  );
}

const LONG = 520; // characters of an observation that are shown at once
const BRIEF = 160; // the same in the case above the numbers
function observation(step, words, place, brief) {
  const said = node("div", { class: "text", dir: "auto" }, ...(step.observation ? marked(step.observation, words) : [node("i", {}, "nothing")]));
  const parts = [node("span", { class: "label" }, "Observation", step.noise ? node("span", { class: "noise" }, `noise: ${step.noise}`) : null), said];
  if (step.observation.length > (brief ? BRIEF : LONG)) {
    said.classList.add("folded");
    const all = `All ${step.observation.length.toLocaleString("en")} characters`;
    const caption = (text) => [text, hidden(` of observation ${place}`)]; // which observation, for those who cannot see it
    const more = node("button", { type: "button", class: "quiet more", "aria-expanded": "false" }, ...caption(all));
    more.addEventListener("click", () => {
      const open = said.classList.toggle("folded") === false;
      more.setAttribute("aria-expanded", String(open));
      more.replaceChildren(...caption(open ? "Less" : all));
    });
    parts.push(more);
  }
  if (step.cut) parts.push(node("p", { class: "muted note" }, `${step.cut.toLocaleString("en")} more characters are in the run's trajectories.jsonl.`));
  return node("div", { class: "observation" }, ...parts);
}

// ----------------------------------------------------------------------------------------------------- helpers

// The only way in which this script makes elements: children are nodes or text, never markup.
function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "top") made.style.top = value;
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return made;
}

function hidden(text) {
  return node("span", { class: "hidden" }, text);
}

function swatch(run) {
  return node("span", { class: `swatch s${runs.get(run)?.series ?? 0}${runs.get(run)?.noisy ? " noisy" : ""}`, "aria-hidden": "true" });
}

// Text with the search words marked.
function marked(text, words) {
  if (!words.length || !text) return [text ?? ""];
  const pattern = new RegExp(`(${words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "giu");
  return text.split(pattern).map((part, place) => (place % 2 ? node("mark", {}, part) : part));
}

function count(n, noun) {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}

function number(value) {
  return value.toLocaleString("en");
}

// ------------------------------------------------------------------------------------------------------- start

function register(found) {
  for (const run of found) {
    const name = agentOf(run.name);
    const known = runs.get(name);
    runs.set(name, { ...run, name, label: known?.label ?? run.label ?? name, series: known?.series ?? run.series ?? runs.size % 6, noisy: known?.noisy ?? run.noisy });
  }
}

// The first case stands above the numbers, in brief; the others follow them.
function cases() {
  for (const [index, keys] of (data.cases ?? []).entries()) {
    const place = $(index ? "case-list" : "first-case");
    const found = keys.map((key) => episodes.get(key)).filter(Boolean);
    if (!place || !found.length) continue;
    const [first, ...rest] = index ? found : [found[0], ...found.slice(1).slice(-1)];
    const link = fragment({ agent: first.run, against: rest.at(-1)?.run ?? "", e: first.key });
    const more = node("p", { class: "others" }, node("a", { href: link }, "Open among all trajectories"));
    place.append(node("article", { class: index ? "case" : "case brief", "aria-label": first.question ?? first.id }, ...reading(first, rest, [], more, { brief: !index })));
  }
}

addEventListener("hashchange", () => {
  if ($("trajectories").hidden) return;
  const before = fragment(state);
  if (location.hash === before) return;
  read();
  refresh();
});
document.addEventListener("fireact:view", (event) => {
  if (event.detail !== "trajectories") return;
  read();
  refresh();
});
// New episodes of a running run (live.js).
document.addEventListener("fireact:episodes", (event) => {
  const wanted = state.e || renamed(new URLSearchParams(location.hash.split("?").slice(1).join("?")).get("e") ?? "");
  register(event.detail.runs);
  for (const run of event.detail.dropped) drop(run);
  take(event.detail.episodes);
  if (wanted && episodes.has(wanted)) state.e = wanted;
  refresh({ keep: true });
});

register(data.browser.runs);
take(data.browser.episodes);
data.browser.episodes = null; // one copy is enough
cases();
if (shortened) $("keys").append(` · texts over ${shortened} characters are shortened in this page`);
read();
refresh();
