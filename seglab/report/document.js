"use strict";
// A heading's button sorts its table: once from the end that matters (numbers: largest first, but smallest first where
// less is better), again the other way round, a third time back to the order of the plan. Empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const planned = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    const numeric = heading.matches(".number, .numeric");
    const turns = numeric && !heading.matches(".less") ? ["descending", "ascending", null] : ["ascending", "descending", null];
    button.addEventListener("click", () => {
      const next = turns[(turns.indexOf(heading.getAttribute("aria-sort")) + 1) % 3];
      for (const other of headings) other.removeAttribute("aria-sort");
      if (next) heading.setAttribute("aria-sort", next);
      const key = (row) => row.cells[column].dataset.value ?? "";
      const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
      const sorted = planned.filter((row) => key(row) !== "");
      if (next) sorted.sort((a, b) => (next === "ascending" ? 1 : -1) * compare(key(a), key(b)));
      body.append(...(next ? [...sorted, ...planned.filter((row) => key(row) === "")] : planned));
    });
  });
}
