// The explorer: three linked panels over all finished trials. plotly.js is unpacked when a reader comes near.
"use strict";
(() => {
  const MANY = 3000; // points from which WebGL draws them, where there is WebGL
  const ROUND_NATS = [0, ...[-3, -2, -1, 0, 1, 2, 3, 4].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power))];
  const INK = "#222", FAINT = "#666", GRID = "#e4e4e4";
  const CONFIG = { displaylogo: false, responsive: true, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
  const find = (name) => document.getElementById(`explore${name}`);
  const controls = find("-controls"), told = find("-trial"), touch = matchMedia("(pointer: coarse)").matches;
  let data, trials, pinned = null;

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
      for (const panel of PANELS) listen(find(panel.name));
      find("-status").hidden = true;
    } catch (error) {
      find("-status").textContent = `The explorer could not start: ${error.message}. Everything else is on this page.`;
    }
  }

  /** What the controls say. */
  function chosen() {
    const form = new FormData(controls);
    return {
      set: form.get("set"), metric: form.get("metric"), against: form.get("against"),
      setting: data.settings.find((one) => one.name === form.get("setting")),
      methods: form.getAll("method").map(Number),
    };
  }

  const column = (choice, measure) => data.values[`${choice.set}/${measure}`] ?? [];
  const short = (value) => value === 0 ? "0" : Math.abs(value) < 0.01 ? value.toExponential().replace("+", "") : String(value);

  /** Ticks that stay a share of the axis apart: the smallest is kept, then from the largest down. */
  function spaced(ticks, place, span, share) {
    const kept = [];
    for (const tick of [ticks[0], ...ticks.slice().reverse()])
      if (kept.every((other) => Math.abs(place(tick) - place(other)) >= share * span)) kept.push(tick);
    return kept.sort((one, other) => one - other);
  }

  /** How a measure lies on its axis: nats on a √ scale from 0, all else as it is. */
  function measured(choice, name) {
    const { words, nats } = data.measures.find((one) => one.name === name), values = column(choice, name);
    const axis = { title: { text: words }, zeroline: false };
    if (!nats) return { at: (trial) => values[trial] ?? null, place: (value) => value, axis };
    const top = Math.max(1e-3, ...trials.method.map((_, trial) => values[trial] ?? 0));
    const ticks = spaced(ROUND_NATS.filter((tick) => tick <= top * 1.1), Math.sqrt, Math.sqrt(top), 0.09);
    Object.assign(axis, { tickvals: ticks.map(Math.sqrt), ticktext: ticks.map(short), range: [-0.02, 1.06].map((end) => end * Math.sqrt(top)) });
    return { at: (trial) => values[trial] == null ? null : Math.sqrt(Math.max(values[trial], 0)), place: Math.sqrt, axis };
  }

  /** How a hyperparameter lies on its axis: logarithmic where declared so, words one beside the other. */
  function set(setting) {
    const known = [...new Set(setting.values.filter((value) => value !== null))], axis = { title: { text: setting.words }, zeroline: false };
    if (known.some((value) => typeof value === "string")) {
      Object.assign(axis, { tickvals: known.map((_, place) => place), ticktext: known.map(String), range: [-0.5, known.length - 0.5] });
      return { at: (trial) => setting.values[trial] === null ? null : known.indexOf(setting.values[trial]), axis };
    }
    const log = setting.log && Math.min(...known) > 0, place = log ? Math.log10 : Number;
    const [low, high] = [Math.min(...known.map(place)), Math.max(...known.map(place))], margin = 0.08 * (high - low) || 0.5;
    Object.assign(axis, { type: log ? "log" : "linear", range: [low - margin, high + margin] });
    if (known.length <= 12) {
      const ticks = spaced(known.sort((one, other) => one - other), place, high - low, 0.12);
      Object.assign(axis, { tickvals: ticks, ticktext: ticks.map(short) });
    }
    return { at: (trial) => setting.values[trial], axis };
  }

  /** A trial in words: who it is, and what it measured on the chosen set. */
  function words(trial, choice, apart) {
    const told = [...new Set([choice.metric, "kl_to_sft", "response_length"])].filter((name) => column(choice, name)[trial] != null);
    const numbers = told.map((name) => {
      const error = data.errors[`${choice.set}/${name}`]?.[trial];
      return `${data.measures.find((one) => one.name === name).words}: ${column(choice, name)[trial]}${error == null ? "" : ` ± ${error}`}`;
    });
    return [`${data.methods[trials.method[trial]].title}, seed ${trials.seed[trial]}`, trials.point[trial], ...numbers].join(apart);
  }

  /** The finished trials of each chosen method that have the metric, lowest first. */
  function shown(choice) {
    const values = column(choice, choice.metric), groups = choice.methods.map((method) => ({ method, trials: [] }));
    const byMethod = new Map(groups.map((group) => [group.method, group]));
    trials.method.forEach((method, trial) => values[trial] != null && byMethod.get(method)?.trials.push(trial));
    for (const group of groups) group.trials.sort((one, other) => values[one] - values[other]);
    return groups;
  }

  const line = (which, place) => place === undefined ? [] : [{
    type: "line", layer: "between", line: { color: INK, width: 1.2 },
    ...(which === "x" ? { x0: place, x1: place, yref: "paper", y0: 0, y1: 1 } : { y0: place, y1: place, xref: "paper", x0: 0, x1: 1 }),
  }];

  /** Each panel: where a trial stands, its axes, what is drawn below the points. */
  const PANELS = [
    { name: "-distribution", make(choice, groups) {
      const metric = measured(choice, choice.metric), row = new Map(groups.map((group, place) => [group.method, place]));
      const rank = new Map(groups.flatMap((group) => group.trials.map((trial, place) => [trial, place]))); // equal values spread out
      const spread = (trial) => row.get(trials.method[trial]) + 0.17 + 0.36 * ((rank.get(trial) * 0.6180339887) % 1 - 0.5);
      const boxes = groups.filter((group) => group.trials.length > 4).map(({ method, trials: mine }) => ({
        type: "box", orientation: "h", x: mine.map(metric.at), y: mine.map(() => row.get(method) - 0.22), width: 0.24, boxpoints: false,
        hoverinfo: "skip", fillcolor: "rgba(0,0,0,0)", line: { color: data.methods[method].colour, width: 1.4 },
      }));
      const names = { tickvals: groups.map((_, place) => place), ticktext: groups.map((group) => data.methods[group.method].title) };
      const yaxis = { ...names, range: [groups.length - 0.5, -0.5], showgrid: false, zeroline: false, ticklen: 0 };
      return { x: metric.at, y: spread, below: boxes, height: 90 + (groups.length > 8 ? 30 : 46) * Math.max(groups.length, 2), xaxis: metric.axis, yaxis,
        shapes: line("x", at(metric, choice)) };
    } },
    { name: "-against", make(choice) {
      if (!choice.against) return null;
      const [metric, other] = [measured(choice, choice.metric), measured(choice, choice.against)];
      return { x: other.at, y: metric.at, below: [], height: 380, xaxis: other.axis, yaxis: metric.axis, shapes: line("y", at(metric, choice)) };
    } },
    { name: "-setting", make(choice) {
      if (!choice.setting) return null;
      const metric = measured(choice, choice.metric), setting = set(choice.setting);
      return { x: setting.at, y: metric.at, below: [], height: 380, xaxis: setting.axis, yaxis: metric.axis, shapes: line("y", at(metric, choice)) };
    } },
  ];
  const at = (metric, choice) => {
    const value = data.lines[`${choice.set}/${choice.metric}`];
    return value === undefined ? undefined : metric.place(value);
  };

  function draw() {
    const choice = chosen(), groups = shown(choice), count = groups.reduce((sum, group) => sum + group.trials.length, 0);
    const type = count > MANY && document.createElement("canvas").getContext("webgl") ? "scattergl" : "scatter";
    for (const panel of PANELS) {
      const made = panel.make(choice, groups), place = find(panel.name);
      place.hidden = !made;
      if (!made) continue;
      const points = groups.map(({ method, trials: mine }) => {
        const placed = mine.filter((trial) => made.x(trial) !== null && made.y(trial) !== null), { title, colour, symbol } = data.methods[method];
        return { type, mode: "markers", name: title, x: placed.map(made.x), y: placed.map(made.y), customdata: placed, text: placed.map((trial) => words(trial, choice, "<br>")),
          hovertemplate: "%{text}<extra></extra>", marker: { color: colour, symbol, size: count > MANY ? 4 : 7, opacity: count > MANY ? 0.6 : 0.9, line: { color: "#fff", width: 0.5 } } };
      });
      const ring = { type: "scatter", mode: "markers", x: [], y: [], hoverinfo: "skip", marker: { symbol: "circle-open", size: 15, color: INK, line: { width: 2 } } };
      const axis = { gridcolor: GRID, linecolor: FAINT, automargin: true, fixedrange: touch };
      const layout = { height: made.height, margin: { l: 10, r: 10, t: 10, b: 10 }, showlegend: false, hovermode: "closest", shapes: made.shapes, dragmode: touch ? false : "zoom",
        font: { family: "system-ui, sans-serif", size: 12, color: INK }, hoverlabel: { align: "left" }, xaxis: { ...axis, ...made.xaxis }, yaxis: { ...axis, ...made.yaxis } };
      panel.made = made;
      panel.ring = made.below.length + points.length;
      Plotly.react(place, [...made.below, ...points, ring], layout, CONFIG);
    }
    show(null);
  }

  /** Tell of a trial below the panels and ring it in all of them. */
  function show(trial) {
    pinned = trial;
    told.replaceChildren();
    for (const panel of PANELS.filter((one) => !find(one.name).hidden)) {
      const placed = trial === null ? [] : [[panel.made.x(trial), panel.made.y(trial)]].filter((spot) => !spot.includes(null));
      Plotly.restyle(find(panel.name), { x: [placed.map((spot) => spot[0])], y: [placed.map((spot) => spot[1])] }, [panel.ring]);
    }
    if (trial === null) return;
    told.append(`${words(trial, chosen(), " · ")} · trial ${trials.key[trial]}`);
    if (trials.url[trial]) told.append(" · ", Object.assign(document.createElement("a"), { href: trials.url[trial], target: "_blank", rel: "noopener", textContent: "open its run" }));
  }

  function listen(panel) {
    const trialOf = (event) => event.points[0]?.customdata;
    panel.on("plotly_hover", (event) => trialOf(event) !== undefined && trialOf(event) !== pinned && show(trialOf(event)));
    panel.on("plotly_click", (event) => {
      const trial = trialOf(event), again = !touch || trial === pinned;
      if (trial !== undefined && again && trials.url[trial]) window.open(trials.url[trial], "_blank", "noopener");
    });
  }

  find("").hidden = false;
  controls.addEventListener("input", draw);
  controls.addEventListener("click", ({ target }) => {
    if (target.type !== "button") return;
    for (const box of controls.elements.method.length ? controls.elements.method : [controls.elements.method]) box.checked = target.value === "all";
    draw();
  });
  controls.addEventListener("submit", (event) => event.preventDefault());
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    start();
  }, { rootMargin: "600px" });
  near.observe(find(""));
})();
