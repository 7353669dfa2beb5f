// Needs `figures`: by name, what Plotly draws and, of a figure with a slider, its frames.
for (const place of document.querySelectorAll("[data-figure]")) {
  const figure = figures[place.dataset.figure];
  Plotly.newPlot(place, figure.data, { ...figure.layout, autosize: true },
    { responsive: true, displaylogo: false, displayModeBar: false })
    .then(() => figure.frames && Plotly.addFrames(place, figure.frames));
}
