"use strict";
// A picture is drawn when it is first seen: inside a closed <details> it has no width yet.
const options = { displayModeBar: false, responsive: true };
function draw(place) {
  const source = place.querySelector("script");
  if (!source) return;
  source.remove();
  const figure = JSON.parse(source.textContent);
  Plotly.newPlot(place, figure.data, figure.layout, options);
}
function drawOpen() {
  for (const place of document.querySelectorAll(".plot")) if (place.offsetWidth > 0) draw(place);
}
for (const part of document.querySelectorAll("details")) part.addEventListener("toggle", drawOpen);
// On paper nothing can be opened.
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  drawOpen();
});
drawOpen();
