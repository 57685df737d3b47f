"use strict";
// Every table can be sorted by a column, and downloaded. Cells without a number stay below.
function cellNumber(text) {
  const found = text.replaceAll(",", "").match(/^[-+\u2212]?\d*\.?\d+(e[-+]?\d+)?/i);
  return found ? Number(found[0].replace("\u2212", "-")) : null;
}
function sortTable(table, index) {
  const head = table.tHead.rows[0].cells[index], body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = (row) => row.cells[index].textContent.trim();
  const numeric = head.classList.contains("number");
  const order = (a, b) => {
    if (!numeric) return (down ? -1 : 1) * text(a).localeCompare(text(b), "en", { numeric: true });
    const [p, q] = [cellNumber(text(a)), cellNumber(text(b))];
    if (p === null || q === null) return (p === null) - (q === null);
    return down ? q - p : p - q;
  };
  body.append(...[...body.rows].sort(order));
}
// A text that a spreadsheet would take for a formula gets an apostrophe before it.
function tableCsv(table) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const shown = (text) => (cellNumber(text) === null && /^[=+@\t\r-]/.test(text) ? `'${text}` : text);
  return [...table.rows].map((row) => [...row.cells].map((c) => quoted(shown(c.textContent.trim()))).join(",")).join("\r\n") + "\r\n";
}
function download(table, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([tableCsv(table)], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
for (const [number, table] of document.querySelectorAll("main table").entries()) {
  if (!table.tHead || !table.tBodies.length) continue;
  for (const [index, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortTable(table, index));
    head.append(button);
  }
  const save = document.createElement("button");
  save.type = "button";
  save.className = "save";
  save.textContent = "CSV";
  save.setAttribute("aria-label", `Download as CSV: ${table.caption ? table.caption.textContent.trim() : "table"}`);
  save.addEventListener("click", () => download(table, `${document.title.split(" ")[0]}-${number + 1}`));
  table.parentElement.after(save);
}
