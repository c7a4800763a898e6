// One move in flight: the next is sent when it is answered, and is then the newest. A slider that
// is dragged faster than the server answers skips positions instead of queueing them. Where it rests
// after an answer that was not exact, the exact one is asked for.
(function () {
  const PATIENCE = 30000; // ms after which an answer counts as lost
  const SIGN = 400; // ms after which a move is said to take its time
  const SLIDERS = ["lambda_w", "lambda_h", "beta", "time"];
  const GONE = "The server does not answer: start perturb-nc explore again, then reload this page.";
  let number = 0, sent = "", since = 0, timer = 0, fit = false, begun = false, fitted = 0;

  const say = (text) => {
    const sign = document.getElementById("sign");
    if (sign) sign.textContent = text;
  };

  const busy = (is) => {
    clearTimeout(timer);
    const main = document.querySelector("main");
    if (!main) return;
    main.setAttribute("aria-busy", is);
    if (is) {
      document.documentElement.dataset.busy = "true";
      timer = setTimeout(() => say("computing …"), SIGN);
    } else {
      delete document.documentElement.dataset.busy;
      say("");
    }
  };

  // Where a server has gone its page is told at the next move.
  const send = window.fetch;
  window.fetch = async (...given) => {
    try {
      return await send(...given);
    } catch (error) {
      if (String(given[0]).includes("_dash-update-component")) {
        clearTimeout(timer);
        say(GONE);
      }
      throw error;
    }
  };

  // The value at the stop of every slider, in its label and for screen readers.
  function label(lambda_w, lambda_h, beta, time, texts) {
    for (const [name, stop] of Object.entries({ lambda_w, lambda_h, beta, time })) {
      const slider = document.getElementById(name);
      if (slider) slider.setAttribute("aria-valuetext", texts[name][stop]);
      dash_clientside.set_props(name + "-value", { children: texts[name][stop] });
    }
  }

  // The address has the state, and a page that is opened by it has that state.
  const restore = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const name of SLIDERS) {
      const slider = document.getElementById(name), stop = Number(asked.get(name));
      if (asked.has(name) && stop >= 0 && stop <= Number(slider.max) && stop % 1 === 0)
        dash_clientside.set_props(name, { value: stop });
    }
    const layers = JSON.parse(document.getElementById("names").textContent);
    if (layers.includes(asked.get("layer"))) dash_clientside.set_props("layer", { value: asked.get("layer") });
  };

  const csv = () => {
    const rows = [["figure", "series", "x", "y"]];
    document.querySelectorAll("[role=figure]").forEach((figure) => {
      const plot = figure.querySelector(".js-plotly-plot");
      (plot?.data ?? []).forEach((trace) =>
        [...trace.x].forEach((x, i) => rows.push([figure.getAttribute("aria-label"), trace.name, x, trace.y[i] ?? ""])),
      );
    });
    const field = (value) => {
      let text = String(value);
      // A spreadsheet takes such a name for a formula and runs it.
      if (/^[=+\-@\t\r]/.test(text) && !Number.isFinite(Number(text))) text = `'${text}`;
      return `"${text.replaceAll('"', '""')}"`;
    };
    return rows.map((row) => row.map(field).join(",")).join("\r\n");
  };

  const begin = () => {
    begun = true;
    document.getElementById("fit").addEventListener("click", () => {
      fit = true;
      dash_clientside.set_props("answered", { data: { number, exact: true, again: Math.random() } });
    });
    document.getElementById("data").addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
      link.download = "explore.csv";
      link.click();
    });
    restore();
  };

  function move(layer, lambda_w, lambda_h, beta, time, answered) {
    // Dash names its dropdown, which it loads later than the sliders, by the value alone.
    const choice = document.getElementById("layer");
    if (choice) choice.setAttribute("aria-labelledby", "layer-label layer-value");
    document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true");
    if (!begun && document.getElementById("fit")) begin();
    const stops = { lambda_w, lambda_h, beta, time };
    for (const name in stops) stops[name] = Number(stops[name]); // a string once it was moved
    if (answered.stops && answered.number === fitted) {
      fitted = 0;
      for (const name of SLIDERS) {
        if (answered.stops[name] !== stops[name]) dash_clientside.set_props(name, { value: answered.stops[name] });
        stops[name] = answered.stops[name];
      }
      sent = JSON.stringify([layer, stops]);
    }
    const key = JSON.stringify([layer, stops]);
    const open = answered.number < number;
    if (open && Date.now() - since < PATIENCE) return;
    const exact = key === sent || fit; // it rests
    if (exact && !fit && (open || answered.exact)) {
      busy(false);
      history.replaceState(null, "", "#" + new URLSearchParams({ layer, ...stops }));
      return;
    }
    number += 1;
    sent = key;
    since = Date.now();
    if (fit) fitted = number;
    busy(true);
    dash_clientside.set_props("asked", { data: { number, layer, stops, exact, fit } });
    fit = false;
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, { explore: { label, move } });
})();
