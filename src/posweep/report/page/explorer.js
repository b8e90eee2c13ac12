// The explorer: three linked panels over all finished trials. plotly.js is unpacked when a reader comes near.
"use strict";
(() => {
  const MANY = 3000; // points from which WebGL draws them, where there is WebGL
  const ROUND_NATS = [0, ...[-3, -2, -1, 0, 1, 2, 3, 4].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power))];
  const CONFIG = { displaylogo: false, responsive: true, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
  const touch = matchMedia("(pointer: coarse)").matches;
  const AXIS = { gridcolor: "#e4e4e4", linecolor: "#666", automargin: true, fixedrange: touch, zeroline: false };
  const LAYOUT = {
    margin: { l: 10, r: 10, t: 10, b: 10 }, showlegend: false, hovermode: "closest", dragmode: touch ? false : "zoom",
    font: { family: "system-ui, sans-serif", size: 12, color: "#222" }, hoverlabel: { align: "left" },
  };
  const find = (name) => document.getElementById(`explore${name}`), controls = find("-controls");
  let data, trials, told = null;

  /** The text of a packed script element; the element is emptied, for it is large. */
  async function unpack(element) {
    const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
    element.textContent = "";
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function start() {
    try {
      data = JSON.parse(await unpack(find("-data")));
      trials = data.trials;
      const library = document.createElement("script");
      library.textContent = await unpack(find("-library"));
      document.head.append(library);
      draw();
      for (const panel of PANELS) if (panel.made) listen(find(panel.name));
      find("-status").hidden = true;
    } catch (error) {
      find("-status").textContent = `The explorer could not start: ${error.message}. Everything else is on this page.`;
    }
  }

  /** What the controls say. */
  function chosen() {
    const form = new FormData(controls), named = (name) => data.measures.find((one) => one.name === name);
    return {
      set: form.get("set"), metric: named(form.get("metric")), against: named(form.get("against")),
      setting: data.settings.find((one) => one.name === form.get("setting")), methods: form.getAll("method").map(Number),
    };
  }
  const column = (choice, measure) => data.values[`${choice.set}/${measure.name}`] ?? [];
  const short = (value) => (value !== 0 && Math.abs(value) < 0.01 ? value.toExponential() : String(value));

  /** Ticks that stay a share of the axis apart: the smallest is kept, then from the largest down. */
  function spaced(ticks, place, span, share) {
    const kept = [];
    for (const tick of [ticks[0], ...ticks.slice().reverse()])
      if (kept.every((other) => Math.abs(place(tick) - place(other)) >= share * span)) kept.push(tick);
    return kept.sort((one, other) => one - other);
  }

  /** How a measure lies on its axis: nats on a √ scale from 0, all else as it is. */
  function measureAxis(choice, measure) {
    const values = column(choice, measure), title = { text: measure.words };
    if (!measure.nats) return { at: (trial) => values[trial] ?? null, place: Number, axis: { title } };
    const top = Math.sqrt(values.reduce((most, value) => Math.max(most, value ?? 0), 1e-3));
    const ticks = spaced(ROUND_NATS.filter((tick) => tick <= 1.1 * top ** 2), Math.sqrt, top, 0.09);
    const axis = { title, tickvals: ticks.map(Math.sqrt), ticktext: ticks.map(short), range: [-0.02 * top, 1.06 * top] };
    return { at: (trial) => (values[trial] == null ? null : Math.sqrt(Math.max(values[trial], 0))), place: Math.sqrt, axis };
  }

  /** How a hyperparameter lies on its axis: logarithmic where declared so, words one beside the other. */
  function settingAxis({ values, words, log }) {
    const known = [...new Set(values.filter((value) => value !== null))], title = { text: words };
    if (known.some((value) => typeof value === "string")) {
      const axis = { title, tickvals: known.map((_, place) => place), ticktext: known, range: [-0.5, known.length - 0.5] };
      return { at: (trial) => (values[trial] === null ? null : known.indexOf(values[trial])), axis };
    }
    known.sort((one, other) => one - other);
    const type = log && known[0] > 0 ? "log" : "linear", place = type === "log" ? Math.log10 : Number;
    const [low, high] = [place(known[0]), place(known.at(-1))], margin = 0.08 * (high - low) || 0.5;
    const ticks = spaced(known, place, high - low, 0.12), few = known.length <= 12;
    const axis = { title, type, range: [low - margin, high + margin], ...(few && { tickvals: ticks, ticktext: ticks.map(short) }) };
    return { at: (trial) => values[trial], axis };
  }

  /** A line where the SFT model stands on the metric. */
  function sft(choice, metric, horizontal) {
    const own = data.lines[`${choice.set}/${choice.metric.name}`], at = own === undefined ? null : metric.place(own);
    const ends = horizontal ? { y0: at, y1: at, xref: "paper", x0: 0, x1: 1 } : { x0: at, x1: at, yref: "paper", y0: 0, y1: 1 };
    return at === null ? [] : [{ type: "line", layer: "between", line: { color: "#222", width: 1.2 }, ...ends }];
  }

  /** The distribution of the metric: a row per method, a box above its points. */
  function distribution(choice, groups) {
    const metric = measureAxis(choice, choice.metric), rows = groups.map((_, row) => row), spot = new Map();
    groups.forEach((group, row) => group.trials.forEach((trial, rank) => // equal values are spread out
      spot.set(trial, row + 0.17 + 0.36 * (((rank * 0.6180339887) % 1) - 0.5))));
    const boxes = groups.flatMap(({ method, trials: mine }, row) => mine.length < 5 ? [] : [{
      type: "box", orientation: "h", x: mine.map(metric.at), y: mine.map(() => row - 0.22), width: 0.24, boxpoints: false,
      hoverinfo: "skip", fillcolor: "rgba(0,0,0,0)", line: { color: data.methods[method].colour, width: 1.4 },
    }]);
    const names = groups.map(({ method }) => data.methods[method].title);
    const yaxis = { tickvals: rows, ticktext: names, range: [groups.length - 0.5, -0.5], showgrid: false };
    const height = 90 + (groups.length > 8 ? 30 : 46) * Math.max(groups.length, 2);
    return { x: metric.at, y: (trial) => spot.get(trial), boxes, height, xaxis: metric.axis, yaxis, shapes: sft(choice, metric, false) };
  }

  /** The metric against anything else. */
  function scatter(choice, other) {
    const metric = measureAxis(choice, choice.metric);
    return { x: other.at, y: metric.at, boxes: [], height: 380, xaxis: other.axis, yaxis: metric.axis, shapes: sft(choice, metric, true) };
  }

  const PANELS = [
    { name: "-distribution", make: distribution },
    { name: "-against", make: (choice) => choice.against && scatter(choice, measureAxis(choice, choice.against)) },
    { name: "-setting", make: (choice) => choice.setting && scatter(choice, settingAxis(choice.setting)) },
  ].map((panel) => ({ ...panel, ring: document.createElement("i") }));

  /** The finished trials of each chosen method that have the metric, lowest first. */
  function grouped(choice) {
    const values = column(choice, choice.metric), groups = choice.methods.map((method) => ({ method, trials: [] }));
    const byMethod = new Map(groups.map((group) => [group.method, group]));
    trials.method.forEach((method, trial) => values[trial] != null && byMethod.get(method)?.trials.push(trial));
    for (const group of groups) group.trials.sort((one, other) => values[one] - values[other]);
    return groups;
  }

  function draw() {
    const choice = chosen(), groups = grouped(choice), count = groups.reduce((sum, group) => sum + group.trials.length, 0);
    const many = count > MANY, type = many && document.createElement("canvas").getContext("webgl") ? "scattergl" : "scatter";
    const dots = many ? { size: 4, opacity: 0.6 } : { size: 7, opacity: 0.9, line: { color: "#fff", width: 0.5 } };
    for (const panel of PANELS) {
      const made = panel.make(choice, groups), place = find(panel.name);
      panel.made = made;
      place.hidden = !made;
      if (!made) continue;
      const points = groups.map(({ method, trials: mine }) => {
        const placed = mine.filter((trial) => made.x(trial) !== null && made.y(trial) !== null);
        const { title, colour, symbol } = data.methods[method], text = placed.map((trial) => words(trial, choice, "<br>"));
        return { type, mode: "markers", name: title, x: placed.map(made.x), y: placed.map(made.y), text, customdata: placed,
          hovertemplate: "%{text}<extra></extra>", marker: { color: colour, symbol, ...dots } };
      });
      const traces = [...made.boxes, ...points], axes = { xaxis: { ...AXIS, ...made.xaxis }, yaxis: { ...AXIS, ...made.yaxis } };
      Plotly.react(place, traces, { ...LAYOUT, ...axes, height: made.height, shapes: made.shapes }, CONFIG);
    }
    show(null);
  }

  /** A trial in words: who it is, and what it measured on the chosen set. */
  function words(trial, choice, apart) {
    const further = data.measures.filter((one) => ["kl_to_sft", "response_length"].includes(one.name) && one !== choice.metric);
    const numbers = [choice.metric, ...further].filter((one) => column(choice, one)[trial] != null).map((one) => {
      const error = data.errors[`${choice.set}/${one.name}`]?.[trial];
      return `${one.words}: ${column(choice, one)[trial]}${error == null ? "" : ` ± ${error}`}`;
    });
    const point = trials.point[trial].replaceAll("<", "&lt;"); // plotly reads a little HTML
    return [`${data.methods[trials.method[trial]].title}, seed ${trials.seed[trial]}`, point, ...numbers].join(apart);
  }

  /** Where a trial stands in a panel, in pixels; null where it is not drawn. Plotly itself would draw all points anew. */
  function pixels(panel, { x, y }, trial) {
    const { xaxis, yaxis } = panel._fullLayout, [across, down] = [xaxis.d2p(x(trial)), yaxis.d2p(y(trial))];
    const inside = across >= 0 && across <= xaxis._length && down >= 0 && down <= yaxis._length;
    return x(trial) === null || y(trial) === null || !inside ? null : [xaxis._offset + across, yaxis._offset + down];
  }

  /** Tell of a trial below the panels and ring it in all of them. */
  function show(trial) {
    told = trial;
    for (const panel of PANELS.filter((one) => one.made)) {
      const spot = trial === null ? null : pixels(find(panel.name), panel.made, trial);
      find(panel.name).append(panel.ring);
      panel.ring.hidden = !spot;
      if (spot) [panel.ring.style.left, panel.ring.style.top] = spot.map((at) => `${at}px`);
    }
    find("-trial").textContent = trial === null ? "" : `${words(trial, chosen(), " · ")} · trial ${trials.key[trial]} `;
    const run = { href: trials.url[trial], target: "_blank", rel: "noopener", textContent: "open its run" };
    if (run.href) find("-trial").append(Object.assign(document.createElement("a"), run));
  }

  function listen(panel) {
    const trialOf = (event) => event.points[0]?.customdata;
    panel.on("plotly_hover", (event) => trialOf(event) !== undefined && trialOf(event) !== told && show(trialOf(event)));
    panel.on("plotly_relayout", () => show(null)); // a ring does not move with what is zoomed
    panel.on("plotly_click", (event) => {
      const url = trials.url[trialOf(event)];
      if (url && !touch) window.open(url, "_blank", "noopener"); // a touch tells of the trial first, with a link
    });
  }

  find("").hidden = false;
  controls.addEventListener("input", draw);
  controls.addEventListener("click", ({ target }) => {
    if (target.type !== "button") return;
    for (const box of controls.querySelectorAll("[name=method]")) box.checked = target.value === "all";
    draw();
  });
  const near = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) near.disconnect(), start();
  }, { rootMargin: "600px" });
  near.observe(find(""));
})();
