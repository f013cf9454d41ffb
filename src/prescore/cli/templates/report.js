"use strict";

/* Order of two cells: numbers by value, text by alphabet. What is missing comes last in both directions. */
function order(a, b, descending) {
  if (a === "" || b === "") {
    return (a === "") - (b === "");
  }
  const x = Number(a);
  const y = Number(b);
  const sign = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  return descending ? -sign : sign;
}

/* The rows in the order of a column; rows that are equal in it keep theirs. */
function sortRows(rows, key, descending) {
  return Array.from(rows).sort((a, b) => order(key(a), key(b), descending));
}

/* The direction of the next click: the other one, or at first the one that has the best on top. */
function nextDirection(current, first) {
  if (current === "none") {
    return first;
  }
  return current === "ascending" ? "descending" : "ascending";
}

function sortBy(header) {
  const table = header.closest("table");
  const headers = Array.from(header.parentElement.cells);
  const column = headers.indexOf(header);
  const direction = nextDirection(header.getAttribute("aria-sort"), header.dataset.first);
  const rows = sortRows(table.tBodies[0].rows, (row) => row.cells[column].dataset.value, direction === "descending");
  headers.forEach((other) => other.setAttribute("aria-sort", other === header ? direction : "none"));
  table.tBodies[0].append(...rows);
}

if (typeof document === "undefined") {
  module.exports = { order, sortRows, nextDirection };
} else {
  document.querySelectorAll("th > button").forEach((button) => {
    button.addEventListener("click", () => sortBy(button.parentElement));
  });
}
