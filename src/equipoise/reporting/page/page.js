"use strict";
(async () => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const printWidth = 680;

  const template = (isDark) => {
    const ink = isDark ? "#e6e9ec" : "#1b1f24", grid = isDark ? "#333b44" : "#e1e5ea";
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid };
    return { layout: {
      font: { color: ink, family: "system-ui, sans-serif", size: 13 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis, yaxis: axis,
      hoverlabel: { bgcolor: isDark ? "#1f242a" : "#ffffff", font: { color: ink }, bordercolor: grid },
      margin: { l: 56, r: 16, t: 24, b: 48 },
    } };
  };
  const letter = 7, margins = 72;
  const withRoom = (notes, key, width) => {
    const ends = figures[key].data.flatMap((line) => line.x).concat(notes.map((note) => note.x));
    const span = Math.max(...ends) - Math.min(...ends) || 1;
    const each = ((width || document.getElementById("figure-" + key).clientWidth) - margins) / span;
    const last = Math.max(...ends);
    const next = (at) => at + 1 < notes.length ? notes[at + 1].x : last;
    const hasRoom = notes.every((note, at) => (next(at) - note.x) * each >= letter * note.text.length);
    return hasRoom ? notes : [];
  };
  const config = { displaylogo: false, responsive: true, displayModeBar: false };
  const draw = (key, isDark, width) => {
    const layout = { ...figures[key].layout, template: template(isDark) };
    if (width) layout.width = width;
    if (layout.annotations) layout.annotations = withRoom(layout.annotations, key, width);
    return Plotly.react("figure-" + key, figures[key].data, layout, config);
  };
  const drawAll = (isDark, width) => Promise.all(Object.keys(figures).map((key) => draw(key, isDark, width)));

  for (const key of Object.keys(figures)) {
    await draw(key, dark.matches);
    await new Promise((done) => setTimeout(done));
  }
  dark.addEventListener("change", () => drawAll(dark.matches));
  let drawnWidth = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (innerWidth !== drawnWidth && figures.timeline) draw("timeline", dark.matches);
      drawnWidth = innerWidth;
    }, 200);
  });
  addEventListener("beforeprint", () => {
    for (const closed of document.querySelectorAll("details")) closed.open = true;
    drawAll(false, printWidth);
  });
  addEventListener("afterprint", () => drawAll(dark.matches));
  document.documentElement.dataset.drawn = Object.keys(figures).length;
})();
