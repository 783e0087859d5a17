// The frame of the page: which view is shown, the theme, copy buttons and printing. The browser of trajectories is browser.js.

const views = [...document.querySelectorAll(".view")];
const tabs = [...document.querySelectorAll("[data-view]")];

// The fragment says what is shown: "#trajectories?..." is the browser, anything else a place in the report.
function show() {
  const place = decodeURIComponent(location.hash.slice(1).split("?")[0]);
  const name = place === "trajectories" || views.length === 1 ? "trajectories" : "report";
  const changed = views.some((view) => view.hidden === (view.id === name));
  for (const view of views) view.hidden = view.id !== name;
  for (const tab of tabs) {
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  if (name === "report" && changed) {
    const target = place && document.getElementById(place);
    if (target && target.id !== "report") target.scrollIntoView();
    else scrollTo(0, 0);
  }
  if (changed) document.dispatchEvent(new CustomEvent("fireact:view", { detail: name }));
}
addEventListener("hashchange", show);
show();

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment belongs to the views
  document.getElementById("main").focus();
});

// system -> light -> dark -> system; remembered if the browser allows storage.
const THEMES = ["system", "light", "dark"];
const button = document.getElementById("theme");
function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  button.textContent = `Theme: ${name}`;
}
let chosen = "system";
try { chosen = localStorage.getItem("fireact-theme") ?? "system"; } catch { /* no storage: the system's theme */ }
theme(THEMES.includes(chosen) ? chosen : (chosen = "system"));
button.addEventListener("click", () => {
  chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
  theme(chosen);
  try { localStorage.setItem("fireact-theme", chosen); } catch { /* it holds for this visit */ }
});

for (const block of document.querySelectorAll("pre.commands")) {
  if (!navigator.clipboard) break;
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "quiet copy";
  copy.textContent = "Copy";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not allowed; select and copy";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2500);
  });
  block.before(copy);
}

// Open all folded parts for printing, then fold them again.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => { for (const details of folded) details.open = false; });
