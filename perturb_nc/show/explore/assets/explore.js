// One move in flight: the next is sent when it is answered, and is then the newest. A slider that
// is dragged faster than the server answers skips positions instead of queueing them. Where it rests
// after an answer that was not exact, the exact one is asked for.
(function () {
  const PATIENCE = 15000; // ms after which an answer counts as lost
  let number = 0, sent = "", since = 0;

  // The value at the stop of every slider, in its label and for screen readers.
  function label(lambda_w, lambda_h, beta, time, texts) {
    for (const [name, stop] of Object.entries({ lambda_w, lambda_h, beta, time })) {
      const slider = document.getElementById(name);
      if (slider) slider.setAttribute("aria-valuetext", texts[name][stop]);
      dash_clientside.set_props(name + "-value", { children: texts[name][stop] });
    }
  }

  function move(layer, lambda_w, lambda_h, beta, time, answered) {
    // Dash names its dropdown, which it loads later than the sliders, by the value alone.
    const choice = document.getElementById("layer");
    if (choice) choice.setAttribute("aria-labelledby", "layer-label layer-value");
    const stops = { lambda_w, lambda_h, beta, time };
    for (const name in stops) stops[name] = Number(stops[name]); // a string once it was moved
    const key = JSON.stringify([layer, stops]);
    const open = answered.number < number;
    if (open && Date.now() - since < PATIENCE) return;
    const exact = key === sent; // it rests
    if (exact && (open || answered.exact)) return;
    number += 1;
    sent = key;
    since = Date.now();
    dash_clientside.set_props("asked", { data: { number, layer, stops, exact } });
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, { explore: { label, move } });
})();
