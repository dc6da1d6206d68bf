"use strict";
const AT_FIRST = 50, rows = [...document.querySelectorAll("tbody tr")], heads = [...document.querySelectorAll("th")];
const tools = document.querySelector(".tools"), filter = tools.querySelector("input"), all = tools.querySelector("button");
const texts = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));
function show() {
  const words = filter.value.toLowerCase().split(/\s+/), found = rows.filter(row => words.every(word => texts.get(row).includes(word)));
  const shown = new Set(all.hidden ? found : found.slice(0, AT_FIRST));
  for (const row of rows) row.hidden = !shown.has(row);
  tools.querySelector("[role=status]").textContent = `${shown.size} of ${rows.length} runs`;
}
function key(row, column) {
  const cell = row.cells[column], number = parseFloat(cell.dataset.by);
  return column === 4 ? (isNaN(number) ? -Infinity : number) : cell.textContent;
}
function sort(column) {
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head, i) => i === column ? head.setAttribute("aria-sort", up ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
  const keys = new Map(rows.map(row => [row, key(row, column)]));
  rows.sort((a, b) => (keys.get(a) < keys.get(b) ? -1 : keys.get(a) > keys.get(b) ? 1 : 0) * (up ? 1 : -1));
  document.querySelector("tbody").append(...rows);
  show();
}
heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.onclick = () => sort(column);
  head.append(button);
});
filter.oninput = show;
all.onclick = () => { all.hidden = true; show(); };
all.hidden = rows.length <= AT_FIRST;
tools.hidden = false;
show();
if (location.hash) { const row = document.getElementById(decodeURIComponent(location.hash.slice(1))); if (row) { row.hidden = false; row.scrollIntoView(); } }
