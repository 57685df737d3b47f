"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const numeric = data.columns.filter((c) => !c.text && data.rows.some((r) => r[c.key] !== null));
const textual = data.columns.filter((c) => c.text);
const colours = ["#2a86c8", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#a0674b"];
const column = (key) => data.columns.find((c) => c.key === key);
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function choose(place, label, choices, chosen) {
  const box = document.createElement("label");
  const select = document.createElement("select");
  for (const [value, text] of choices) select.append(new Option(text, value, value === chosen, value === chosen));
  box.append(label, select);
  document.getElementById(place).append(box);
  select.addEventListener("change", show);
  return select;
}
const axes = numeric.map((c) => [c.key, c.label]);
const first = (...keys) => keys.find((key) => numeric.some((c) => c.key === key)) ?? numeric[0]?.key;
const x = choose("axes", "across", axes, first("bytes"));
const y = choose("axes", "up", axes, first("accuracy", "auroc"));
const groups = [...textual.map((c) => [c.key, c.label]), ["", "none"]];
const by = choose("axes", "colour", groups, "head");
const filters = textual
  .map((c) => [c.key, c.label, [...new Set(data.rows.map((r) => r[c.key]))]])
  .filter(([, , values]) => values.length > 1)
  .map(([key, label, values]) => [
    key,
    choose("filters", label, [["", "all"], ...values.map((v) => [String(v), String(v)])], ""),
  ]);
// Also, the smallest value of the vertical axis (the largest where low is better).
const bound = document.createElement("input");
bound.type = "number";
bound.step = "any";
const boundLabel = document.createElement("label");
const boundName = document.createElement("span");
boundLabel.append(boundName, bound);
document.getElementById("filters").append(boundLabel);
bound.addEventListener("input", show);
y.addEventListener("change", () => { bound.value = ""; show(); });

// Lower is better in both numbers: what should be high is negated.
const cost = (row, key) => (column(key).better === "high" ? -row[key] : row[key]);
const beats = (a, b) => {
  const pairs = [x.value, y.value].map((key) => [cost(a, key), cost(b, key)]);
  return pairs.every(([p, q]) => p <= q) && pairs.some(([p, q]) => p < q);
};
const within = (row) =>
  bound.value === "" || (row[y.value] !== null && cost(row, y.value) <= cost({ [y.value]: Number(bound.value) }, y.value));
const seen = (row) =>
  within(row) && filters.every(([key, select]) => select.value === "" || String(row[key]) === select.value);
const drawn = (row) => seen(row) && row[x.value] !== null && row[y.value] !== null;

function traces(rows, front) {
  const names = [...new Set(rows.map((r) => (by.value === "" ? "detectors" : String(r[by.value]))))];
  const points = names.map((name, index) => {
    const mine = rows.filter((r) => by.value === "" || String(r[by.value]) === name);
    return {
      type: "scatter", mode: "markers", name: plain(name), x: mine.map((r) => r[x.value]), y: mine.map((r) => r[y.value]),
      text: mine.map((r) => `${plain(r.words).replaceAll(", ", "<br>")}<br><br>${plain(r.command)}`),
      hovertemplate: "%{text}<br>%{x}, %{y}<extra></extra>", hoverlabel: { align: "left" },
      marker: { size: 10, color: colours[index % colours.length], symbol: mine.map((r) => (r.variant === "dense" ? "circle-open" : "diamond")) },
    };
  });
  const line = [...front].sort((a, b) => a[x.value] - b[x.value] || a[y.value] - b[y.value]);
  return [
    { type: "scatter", mode: "lines", name: "front", x: line.map((r) => r[x.value]), y: line.map((r) => r[y.value]),
      line: { color: "#808080", dash: "dot", shape: "hv" }, hoverinfo: "skip" },
    ...points,
  ];
}
function show() {
  boundName.textContent = `${column(y.value).label} ${column(y.value).better === "high" ? "at least" : "at most"}`;
  const rows = data.rows.filter(drawn);
  const front = rows.filter((row) => !rows.some((other) => beats(other, row)));
  for (const tr of document.querySelectorAll("#all tbody tr")) {
    const row = data.rows[Number(tr.dataset.row)];
    tr.hidden = !seen(row);
    tr.classList.toggle("front", front.includes(row));
  }
  const axis = (key) => ({ title: { text: plain(column(key).label) }, automargin: true, zeroline: false });
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "system-ui, sans-serif", size: 13 },
    margin: { l: 64, r: 16, t: 16, b: 110 }, hovermode: "closest", showlegend: true, xaxis: axis(x.value), yaxis: axis(y.value),
    legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" },
  };
  Plotly.react("plot", traces(rows, front), layout, { displayModeBar: false, responsive: true });
  document.getElementById("seen").textContent =
    `${rows.length} detectors, ${front.length} of them on the front: no other is at least as good in both ` +
    `(${column(x.value).label}; ${column(y.value).label}) and better in one. Open circles are dense. ` +
    `On the front: ${front.map((r) => r.words).join("; ")}.`;
}
if (numeric.length > 0) show();
window.addEventListener("beforeprint", () => Plotly.relayout("plot", { width: 640, autosize: false }));
window.addEventListener("afterprint", () => Plotly.relayout("plot", { width: null, autosize: true }));

const body = document.querySelector("#all tbody");
for (const [index, head] of document.querySelectorAll("#all thead th").entries()) {
  head.querySelector("button")?.addEventListener("click", () => {
    const down = head.ariaSort === "ascending";
    for (const other of document.querySelectorAll("#all thead th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const { key, text } = data.columns[index];
    const value = (tr) => data.rows[Number(tr.dataset.row)][key];
    const order = (a, b) => {
      const [p, q] = [value(a), value(b)];
      if (p === null || q === null) return (p === null) - (q === null);
      const sign = text ? String(p).localeCompare(String(q), "en", { numeric: true }) : p - q;
      return down ? -sign : sign;
    };
    body.append(...[...body.rows].sort(order));
  });
}

// A text that a spreadsheet would take for a formula gets an apostrophe before it.
function csvCell(value) {
  if (value === null || typeof value === "number") return value === null ? "" : String(value);
  const text = /^[=+@\t\r-]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function csv() {
  const rows = [...body.rows].filter((tr) => !tr.hidden).map((tr) => data.rows[Number(tr.dataset.row)]);
  const lines = [data.columns.map((c) => csvCell(c.label)), ...rows.map((r) => data.columns.map((c) => csvCell(r[c.key])))];
  return lines.map((line) => line.join(",")).join("\r\n") + "\r\n";
}
document.getElementById("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = `${data.name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
