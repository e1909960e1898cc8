"use strict";
(function () {
  const isTouched = matchMedia("(pointer: coarse)").matches;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Bokeh reads CSS variables when it paints: paint again when light turns to dark.
  function paint() {
    document.documentElement.dataset.painted = dark.matches ? "dark" : "light";
    for (const view of Object.values(Bokeh.index)) view.invalidate_layout?.();
  }

  // A finger on a chart scrolls the page; the tools above the chart switch zooming on.
  function releaseDrag() {
    for (const page of Bokeh.documents) {
      for (const model of page.all_models ?? page._all_models.values()) {
        if (model.type === "BoxZoomTool") model.active = false;
      }
    }
  }

  document.documentElement.dataset.painted = dark.matches ? "dark" : "light";
  dark.addEventListener("change", paint);
  for (const details of document.querySelectorAll("details.charts")) {
    details.addEventListener("toggle", paint);
  }
  if (isTouched) addEventListener("load", () => setTimeout(releaseDrag, 500));
})();
