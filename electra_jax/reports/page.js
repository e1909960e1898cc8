"use strict";
(function () {
  const isTouched = matchMedia("(pointer: coarse)").matches;

  // Bokeh reads CSS variables when it paints: paint again when light turns to dark.
  function paint() {
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

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  for (const details of document.querySelectorAll("details.charts")) {
    details.addEventListener("toggle", paint);
  }
  if (isTouched) addEventListener("load", () => setTimeout(releaseDrag, 500));
})();
