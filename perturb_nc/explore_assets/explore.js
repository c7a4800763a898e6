// One move in flight: the next is sent when it is answered, and is then the newest. A slider that
// is dragged faster than the solver answers skips positions instead of queueing them.
(function () {
  const PATIENCE = 15000; // ms after which an answer counts as lost
  let number = 0, sent = "", since = 0;

  function move(layer, lambda_w, lambda_h, beta, time, answered, texts) {
    const stops = { lambda_w, lambda_h, beta, time };
    for (const [name, stop] of Object.entries(stops)) {
      stops[name] = Number(stop); // a range that was moved holds a string
      const slider = document.getElementById(name);
      const text = texts[name][stop];
      if (slider) slider.setAttribute("aria-valuetext", text);
      dash_clientside.set_props(name + "-value", { children: text });
    }
    // Dash names its dropdown by the value alone.
    const choice = document.getElementById("layer");
    if (choice) choice.setAttribute("aria-labelledby", "layer-label layer-value");
    const key = JSON.stringify([layer, stops]);
    const waiting = answered < number && Date.now() - since < PATIENCE;
    if (waiting || key === sent) return;
    number += 1;
    sent = key;
    since = Date.now();
    dash_clientside.set_props("asked", { data: { number, layer, stops } });
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, { explore: { move } });
})();
