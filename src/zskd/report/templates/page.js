"use strict";
// The gallery: which impressions, in which order.
(() => {
  const cards = document.getElementById("cards");
  if (!cards) return;
  const [only, order, count] = ["class", "order", "count"].map((id) => document.getElementById(id));
  const show = () => {
    const items = [...cards.children];
    const key = order.value;
    // confidence falls, all others rise
    const sign = key === "confidence" ? -1 : 1;
    items.sort((a, b) => sign * (Number(a.dataset[key]) - Number(b.dataset[key])));
    let shown = 0;
    for (const item of items) {
      item.hidden = only.value !== "" && item.dataset.class !== only.value;
      shown += item.hidden ? 0 : 1;
    }
    cards.append(...items);
    count.textContent = shown === 1 ? "1 impression" : `${shown} impressions`;
  };
  only.addEventListener("change", show);
  order.addEventListener("change", show);
  const answers = document.getElementById("answers");
  answers.addEventListener("click", () => {
    const open = answers.getAttribute("aria-pressed") !== "true";
    answers.setAttribute("aria-pressed", String(open));
    answers.textContent = open ? "Hide all answers" : "Show all answers";
    for (const details of cards.querySelectorAll("details")) details.open = open;
  });
})();
// Matrices: one cell is told at a time, by the pointer or by the arrow keys.
for (const table of document.querySelectorAll("[data-matrix]")) {
  const told = table.closest("figure").querySelector(".told");
  const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
  const tell = (cell) => { told.textContent = cell.dataset.text; };
  const choose = (cell) => {
    for (const other of table.querySelectorAll("td[tabindex='0']")) other.tabIndex = -1;
    cell.tabIndex = 0;
  };
  rows.flat().forEach((cell) => {
    cell.tabIndex = -1;
    cell.addEventListener("pointerenter", () => tell(cell));
    cell.addEventListener("focus", () => { choose(cell); tell(cell); });
  });
  choose(rows[0][0]);
  table.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const row = rows.findIndex((cells) => cells.includes(event.target));
    if (!step || row < 0) return;
    const next = rows[row + step[0]]?.[rows[row].indexOf(event.target) + step[1]];
    event.preventDefault();
    next?.focus();
  });
}
