
"use strict";
// Tables sort by a click on a title (up, down, as written) and, where they are long, filter by a word.
// Without it they stand as they were written.
const LONG = 8;

function valueOf(row, column, numeric) {
  const text = row.cells[column].textContent.trim();
  if (text === "" || text === "-") return null;
  if (!numeric) return text;
  const number = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? -Infinity : number; // a word: "best"
}

function compare(a, b) {
  if (typeof a === "number") return a < b ? -1 : a > b ? 1 : 0;
  return a.localeCompare(b, undefined, { numeric: true });
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const written = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const order = next[head.getAttribute("aria-sort") ?? "none"];
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      if (order === "none") return body.append(...written);
      head.setAttribute("aria-sort", order);
      const numeric = head.classList.contains("n");
      const valued = written.map((row) => [valueOf(row, column, numeric), row]);
      const known = valued.filter(([value]) => value !== null).sort(([a], [b]) => compare(a, b));
      if (order === "descending") known.reverse();
      const unknown = valued.filter(([value]) => value === null);
      body.append(...[...known, ...unknown].map(([, row]) => row));
    });
  });
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length <= LONG) return;
  const box = document.createElement("p");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const told = document.createElement("span");
  box.className = "filter";
  input.type = "search";
  told.setAttribute("role", "status");
  label.append("Filter ", input);
  box.append(label, " ", told);
  input.addEventListener("input", () => {
    const word = input.value.trim().toLocaleLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLocaleLowerCase().includes(word);
    const shown = rows.filter((row) => !row.hidden).length;
    told.textContent = word ? `${shown} of ${rows.length} rows` : "";
  });
  table.closest(".scroll").before(box);
}

for (const table of document.querySelectorAll(".table table")) {
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
  makeFilterable(table);
}

// A print shows what is folded too, and all rows.
const folded = new Set();
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    folded.add(one);
    one.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
  folded.clear();
});
