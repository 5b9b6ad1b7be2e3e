"use strict";
// Unpack the plotting library, which is compressed, and then run the script of the page.
(async () => {
  const run = (text) => document.head.append(Object.assign(document.createElement("script"), { text }));
  const content = (id) => document.getElementById(id).textContent;
  if (!window.DecompressionStream) {
    const note = "This browser is too old to draw the plots of this page. The text and the tables are complete.";
    document.querySelector("h1").after(Object.assign(document.createElement("p"), { textContent: note }));
    return;
  }
  const packed = atob(content("plotly"));
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  run(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
  run(content("script"));
  document.documentElement.dataset.ready = "true";
})();
