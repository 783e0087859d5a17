// Small comforts; the page says everything without them.
"use strict";
for (const block of document.querySelectorAll("pre.commands")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed; select and copy";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2500);
  });
  block.before(button);
}
// Paper cannot be unfolded: print what is folded, then fold it again.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => { for (const details of folded) details.open = false; });
