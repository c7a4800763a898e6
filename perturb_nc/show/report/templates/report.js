"use strict";
(() => {
  const root = document.documentElement;
  let figures = {};
  const drawn = new Map(); // figure element -> index of the view it shows
  let drawings = 0;
  const SHEET = 660; // pixels across a printed page
  const narrow = matchMedia("(max-width: 40rem)");
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;
  root.classList.add("scripted");

  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  const coloured = (trace) => {
    const color = colour(`mark-${trace.meta}`);
    const result = { ...trace, line: { ...trace.line, color }, marker: { ...trace.marker, color } };
    if (trace.error_y) result.error_y = { ...trace.error_y, color, thickness: 1.5 };
    return result;
  };

  // A logarithmic axis with numbers at 1, 2 and 5, or at powers of ten where there are many.
  const numbered = (axis, name, data) => {
    if (axis.type !== "log") return axis;
    const values = data.flatMap((trace) => [...(trace[name] ?? [])]).filter((value) => value > 0);
    const decades = Math.log10(Math.max(...values) / Math.min(...values));
    if (!(decades > 0.35)) return axis;
    return { ...axis, dtick: decades > 1.8 ? Math.ceil(decades / 5) : "D2" };
  };

  const framed = (layout, data, width) => {
    const [ink, line, paper] = ["ink", "line", "paper"].map(colour);
    const axis = { gridcolor: line, linecolor: line };
    return {
      ...layout,
      paper_bgcolor: paper,
      plot_bgcolor: paper,
      font: { color: ink, family: "system-ui, sans-serif", size: narrow.matches ? 11 : 13 },
      hoverlabel: { bgcolor: colour("raised"), font: { color: ink } },
      xaxis: { ...thinned(numbered(layout.xaxis, "x", data), width), ...axis },
      yaxis: { ...numbered(layout.yaxis, "y", data), ...axis },
    };
  };

  // What the page holds compressed, as text.
  const unpacked = (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  // So many names of layers as there is room for.
  const thinned = (axis, width) => {
    if (!axis.ticktext) return axis;
    const step = Math.ceil(axis.ticktext.length / Math.max(4, Math.floor(width / 24)));
    const kept = (_, i) => i % step === 0;
    return { ...axis, tickvals: axis.tickvals.filter(kept), ticktext: axis.ticktext.filter(kept) };
  };

  // The figure in one state of its control: a frame says how it differs from the first. Traces
  // of a frame share the x of its first one.
  const state = ({ figure }, index) => {
    const frame = figure.frames?.[index] ?? {};
    const layout = { ...figure.layout };
    for (const axis of ["xaxis", "yaxis"]) layout[axis] = { ...layout[axis], ...frame.layout?.[axis] };
    const x = frame.data?.[0].x;
    const data = figure.data.map((trace, i) => ({ ...trace, ...(x && !frame.data[i].x && { x }), ...frame.data?.[i] }));
    return { data, layout };
  };

  const draw = (element, index, width) => {
    const record = figures[element.id];
    const [name, summary] = Object.entries(record.views)[index];
    const { data, layout } = state(record, index);
    const plot = element.querySelector(".plot");
    drawn.set(element, index);
    plot.setAttribute("aria-label", `${record.title}. ${summary}`);
    const said = element.querySelector(".summary");
    if (said.textContent !== summary) said.textContent = summary;
    const range = element.querySelector("input[type=range]");
    if (range) {
      range.setAttribute("aria-valuetext", name);
      element.querySelector("output").textContent = name;
    }
    const settings = { displayModeBar: false, responsive: true };
    const laid = framed(layout, data, width ?? plot.clientWidth);
    // The layout has no range of its axes: drawn again with the same data and colours, plotly would
    // put the ticks on its default one and leave the points. A new revision makes it find the range.
    Plotly.react(plot, data.map(coloured), { ...laid, width, datarevision: ++drawings }, settings);
    // The label above says it all; plotly keeps one more drawing, to measure texts.
    document.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
  };

  // Browsers keep the state of controls when a page is loaded again.
  const chosen = (element) => Number(element.querySelector("select, input")?.value ?? 0);

  const redraw = () => drawn.forEach((index, element) => draw(element, index));

  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const csv = (rows) => {
    const field = (value) => {
      let text = String(value ?? "");
      // A spreadsheet takes such a name for a formula and runs it.
      if (/^[=+\-@\t\r]/.test(text) && !Number.isFinite(Number(text))) text = `'${text}`;
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return rows.map((row) => row.map(field).join(",") + "\r\n").join("");
  };

  const figureRows = (record) => {
    const sources = Object.values(record.columns);
    const rows = Object.keys(record.views).flatMap((view, index) =>
      state(record, index).data.flatMap((trace) => {
        if (trace.mode === "lines") return []; // a guide for the eye
        return record.points.map((point, i) => {
          const { x, y, error_y: error } = trace;
          const low = error && y[i] - error.arrayminus[i];
          const high = error && y[i] + error.array[i];
          const values = { view, series: trace.name, point, x: x[i], y: y[i], low, high };
          return sources.map((source) => values[source]);
        });
      }),
    );
    return [Object.keys(record.columns), ...rows];
  };

  const valueOf = (cell) => cell.dataset.value ?? cell.textContent;

  const tableRows = (table) => [
    [...table.tHead.rows[0].cells].map((cell) => cell.dataset.name),
    ...[...table.tBodies[0].rows].map((row) => [...row.cells].map(valueOf)),
  ];

  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x - y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };

  const sort = (table, column) => {
    const heads = [...table.tHead.rows[0].cells];
    const sign = heads[column].ariaSort === "ascending" ? -1 : 1;
    const value = (row) => valueOf(row.cells[column]);
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      if (!value(a) || !value(b)) return !value(a) - !value(b); // missing ones last, either way
      return sign * compare(value(a), value(b));
    });
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].ariaSort = sign > 0 ? "ascending" : "descending";
    table.tBodies[0].append(...rows);
  };

  document.querySelectorAll("table").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.dataset.name = head.textContent.trim();
      button.addEventListener("click", () => sort(table, column));
      head.replaceChildren(button);
    });
  });

  document.querySelectorAll(".why").forEach((why) => (why.parentElement.title = why.textContent));

  document.querySelectorAll("[data-table]").forEach((button) => {
    const table = document.getElementById(button.dataset.table);
    const file = `${table.id}.csv`;
    button.addEventListener("click", () => save(file, "text/csv", csv(tableRows(table))));
  });

  document.querySelectorAll(".chooser").forEach((chooser) => {
    const select = chooser.querySelector("select");
    const parts = [...chooser.querySelectorAll(".table")];
    const show = () => parts.forEach((part, i) => (part.hidden = i !== Number(select.value)));
    select.addEventListener("change", show);
    show();
  });

  // A table that is wider than its page shows its rows as cards; what scrolls can be focused.
  const fit = (box) => {
    box.classList.remove("stacked");
    box.classList.toggle("stacked", box.scrollWidth > box.clientWidth);
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  // What a table is to those who hear it, whatever is made of it for the eye; names for its cards.
  const describe = (table) => {
    const names = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.name);
    const roles = [["table", [table]], ["rowgroup", [table.tHead, ...table.tBodies]], ["row", table.rows],
      ["columnheader", table.tHead.rows[0].cells]];
    for (const [role, elements] of roles) for (const element of elements) element.setAttribute("role", role);
    for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, i) => {
      cell.setAttribute("role", i ? "cell" : "rowheader");
      cell.dataset.label = names[i];
    });
  };
  const widths = new WeakMap();
  const boxes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (widths.get(target) === target.clientWidth) continue;
      if (!widths.has(target)) describe(target.querySelector("table"));
      widths.set(target, target.clientWidth);
      fit(target);
    }
  });
  document.querySelectorAll(".scroll").forEach((box) => boxes.observe(box));

  // A link to a network opens it.
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    const own = target?.querySelector(":scope > details.network");
    if (!own || own.open) return;
    own.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  document.querySelectorAll("[data-unfold]").forEach((button) =>
    button.addEventListener("click", () => {
      const open = Boolean(button.dataset.unfold);
      document.querySelectorAll("details.network").forEach((network) => (network.open = open));
    }),
  );

  const seen = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting && !drawn.has(target)) draw(target, chosen(target));
      }
    },
    { rootMargin: "600px" }, // a page of many networks draws what is near
  );

  const prepare = (element) => {
    seen.observe(element);
    const control = element.querySelector("select, input");
    control?.addEventListener("input", () => draw(element, chosen(element)));
    element
      .querySelector("[data-csv]")
      .addEventListener("click", () => save(`${element.id}.csv`, "text/csv", csv(figureRows(figures[element.id]))));
    element.querySelector("[data-svg]").addEventListener("click", async () => {
      const plot = element.querySelector(".plot");
      const { width, height } = plot.getBoundingClientRect();
      const url = await Plotly.toImage(plot, { format: "svg", width, height });
      save(`${element.id}.svg`, "image/svg+xml", decodeURIComponent(url.slice(url.indexOf(",") + 1)));
    });
  };

  const theme = document.getElementById("theme");
  const recolour = () => {
    root.style.colorScheme = theme.value;
    redraw();
  };
  theme.addEventListener("change", recolour);
  recolour();
  reveal();

  // On paper: light, as wide as a sheet, with everything open but the networks that are folded.
  const opened = [];
  addEventListener("beforeprint", () => {
    root.style.colorScheme = "light";
    document.querySelectorAll("details:not(.network, [open])").forEach((part) => {
      if (part.parentElement.closest("details:not([open])")) return;
      part.open = true;
      opened.push(part);
    });
    document.querySelectorAll("figure").forEach((element) => {
      if (element.checkVisibility()) draw(element, drawn.get(element) ?? chosen(element), SHEET);
    });
  });
  addEventListener("afterprint", () => {
    opened.splice(0).forEach((part) => (part.open = false));
    recolour();
  });

  const start = async () => {
    const [data, plotly] = await Promise.all([unpacked("figures"), unpacked("plotly")]);
    figures = JSON.parse(data);
    const script = document.createElement("script");
    script.textContent = plotly;
    document.head.append(script);
    document.querySelectorAll("figure").forEach(prepare);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    narrow.addEventListener("change", redraw);
    root.dataset.ready = "true";
  };
  start();
})();
