"use strict";
// Bokeh reads CSS variables when it paints: paint again when light turns to dark.
(function () {
  function views() {
    return Object.values(window.Bokeh ? Bokeh.index.roots ?? Bokeh.index : {});
  }
  function paint() {
    for (const view of views()) {
      if (view.invalidate_layout) view.invalidate_layout();
    }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  matchMedia("print").addEventListener("change", paint);
  for (const details of document.querySelectorAll("details.charts")) {
    details.addEventListener("toggle", paint);
  }
})();
