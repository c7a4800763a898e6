// Faults of a page that a browser has laid out, as sentences: what runs over the edge, figures with
// nothing in them, labels on top of each other, and what those miss who do not see or point.
() => {
  const faults = [];
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const seen = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const boxed = (e) => e.getClientRects().length > 0 && e.getBoundingClientRect().width > 1;
  const visible = (selector, within) => all(selector, within).filter((e) => seen(e) && boxed(e));
  const said = (e) => {
    const name = e.id ? `#${e.id}` : [...(e.classList ?? [])].map((c) => `.${c}`).join("");
    return `${e.tagName.toLowerCase()}${name} "${(e.textContent ?? "").trim().slice(0, 40)}"`;
  };

  // Over the edge.
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width)
    faults.push(`the page is ${document.documentElement.scrollWidth} pixels wide, of ${width}`);
  const scrolls = (e) => ["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(e).overflowX);
  for (const e of visible("body *")) {
    const box = e.getBoundingClientRect();
    if (box.right <= width + 1 && box.left >= -1) continue;
    let up = e.parentElement;
    while (up && !scrolls(up)) up = up.parentElement;
    if (!up && getComputedStyle(e).position !== "absolute") faults.push(`${said(e)} runs over the edge`);
  }
  for (const e of visible("table")) {
    const box = e.parentElement;
    if (box.scrollWidth > box.clientWidth + 1) faults.push(`${said(e)} is wider than the page`);
  }

  // Figures.
  const corners = (e) => {
    if (!(e instanceof SVGGraphicsElement)) {
      const { left, right, top, bottom } = e.getBoundingClientRect();
      return [[left, top], [right, top], [right, bottom], [left, bottom]];
    }
    const { x, y, width: w, height: h } = e.getBBox();
    const matrix = e.getScreenCTM();
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]].map(([u, v]) => {
      const p = new DOMPoint(u, v).matrixTransform(matrix);
      return [p.x, p.y];
    });
  };
  const SLACK = 2; // pixels: boxes of text are higher than its letters
  const apart = (a, b) => {
    for (const shape of [a, b])
      for (let i = 0; i < 4; i++) {
        const [[x, y], [u, v]] = [shape[i], shape[(i + 1) % 4]];
        const length = Math.hypot(u - x, v - y) || 1;
        const [p, q] = [(v - y) / length, (x - u) / length];
        const along = (points) => points.map(([s, t]) => p * s + q * t);
        const [one, two] = [along(a), along(b)];
        if (Math.max(...one) < Math.min(...two) + SLACK || Math.max(...two) < Math.min(...one) + SLACK)
          return true;
      }
    return false;
  };
  const overlapping = (elements) => {
    const boxes = elements.map((e) => [e, corners(e)]);
    boxes.forEach(([e, box], i) =>
      boxes.slice(i + 1).forEach(([other, its]) => {
        if (e.contains(other) || other.contains(e) || apart(box, its)) return;
        faults.push(`${said(e)} and ${said(other)} are on top of each other`);
      }),
    );
  };
  // Axes that plotly gives a range: it is about that of the points, and so are the numbers.
  const misplaced = (plot, axis) => {
    const letter = axis._name[0];
    const at = axis.type === "log" ? Math.log10 : Number;
    const points = plot._fullData
      .filter((trace) => trace.visible === true && trace.type === "scatter")
      .flatMap((trace) => {
        const { array = [], arrayminus = array } = trace[`error_${letter}`] ?? {};
        return [...(trace[letter] ?? [])].flatMap((v, i) =>
          v === null ? [] : [v, v + (array[i] ?? 0), v - (arrayminus[i] ?? 0)],
        );
      })
      .map(at)
      .filter(Number.isFinite);
    if (!points.length) return;
    const [low, high] = [Math.min(...points), Math.max(...points)];
    const slack = high > low ? 0.3 * (high - low) : 1.1;
    const ticks = all(`.${letter}tick`, plot).map((e) => e.__data__.x);
    for (const [what, values] of [["range", axis.range], ["ticks", ticks]])
      if (values.some((v) => !(v >= low - slack && v <= high + slack)))
        faults.push(`${what} ${values} of ${letter} in ${said(plot.closest("figure, [role=figure]") ?? plot)} are off ${low} to ${high}`);
  };
  for (const plot of visible(".js-plotly-plot")) {
    for (const axis of [plot._fullLayout.xaxis, plot._fullLayout.yaxis])
      if (axis.autorange && ["log", "linear"].includes(axis.type)) misplaced(plot, axis);
    if (!visible(".trace path", plot).length && !all(".trace path", plot).some(boxed))
      faults.push(`${said(plot.closest("figure, [role=figure]") ?? plot)} is empty`);
    const titles = ".xtick text, .ytick text, .legendtext, .g-xtitle text, .g-ytitle text, .gtitle";
    overlapping(all(titles, plot).filter((e) => e.textContent.trim() && seen(e)));
  }
  const labels = "label, button, select, output, figcaption, h1, h2, h3, h4, dt, summary, caption span";
  overlapping(visible(labels).filter((e) => !e.closest(".skip, .unseen, thead")));

  // Names and order.
  const named = (e) =>
    e.getAttribute("aria-label") ||
    (e.getAttribute("aria-labelledby") ?? "").split(" ").some((id) => document.getElementById(id)) ||
    e.labels?.length ||
    e.textContent.trim() ||
    e.title;
  for (const e of visible("button, a[href], input, select, textarea, [role=button], [role=combobox], [role=slider]"))
    if (!named(e)) faults.push(`${said(e)} has no name`);
  for (const e of visible("img, [role=img], [role=figure]"))
    if (!e.getAttribute("alt") && !e.getAttribute("aria-label")) faults.push(`${said(e)} says nothing of its picture`);
  for (const e of visible("svg:not(#js-plotly-tester)")) // far off the page
    if (!e.closest("[aria-hidden=true], [role=img], [role=figure], button")) faults.push(`${said(e)} has no words`);
  const headings = visible("h1, h2, h3, h4, h5, h6").map((e) => [Number(e.tagName[1]), e]);
  if (headings.filter(([level]) => level === 1).length !== 1) faults.push("there is not one h1");
  headings.forEach(([level, e], i) => {
    if (i && level > headings[i - 1][0] + 1) faults.push(`${said(e)} skips a level`);
  });
  if (!document.documentElement.lang) faults.push("the page has no language");
  if (!document.title) faults.push("the page has no title");
  if (!document.querySelector("main")) faults.push("the page has no main");
  const ids = all("[id]").filter((e) => !e.closest("svg")).map((e) => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) faults.push(`two elements are #${id}`);
  for (const e of visible("button, select, input, summary")) {
    const { height } = e.getBoundingClientRect();
    if (height < 23.5) faults.push(`${said(e)} is ${height} pixels high, of 24 at least`);
  }
  for (const e of visible("table"))
    if (!all("th", e).length) faults.push(`${said(e)} has no heads`);

  // Contrast, of every text to what is behind it.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(colour);
  };
  const behind = (e) => {
    for (let up = e; up; up = up.parentElement) {
      const found = rgba(getComputedStyle(up).backgroundColor);
      if (found[3] > 250) return found;
    }
    return rgba(matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#ffffff");
  };
  const luminance = ([r, g, b]) =>
    [[r, 0.2126], [g, 0.7152], [b, 0.0722]].reduce((sum, [value, weight]) => {
      const s = value / 255;
      return sum + weight * (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4);
    }, 0);
  const poor = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !seen(e) || !boxed(e) || e.closest(".unseen, .why, [disabled]")) continue;
    const style = getComputedStyle(e);
    const colour = e instanceof SVGElement ? style.fill : style.color;
    const ground = behind(e instanceof SVGElement ? e.ownerSVGElement.parentElement : e);
    const [one, two] = [luminance(rgba(colour)), luminance(ground)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) poor.add(`${said(e)} has a contrast of ${ratio.toFixed(2)}`);
  }
  return [...faults, ...poor];
}
