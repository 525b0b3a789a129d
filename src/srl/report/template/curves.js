// Curves: a panel per metric, all runs in each, one legend and one cursor for all.

const PANELS = [
  ["eval_reward", "Held-out reward"],
  ["eval_exact_step_rate", "Held-out steps equal to the expert's"],
  ["eval_loss", "Held-out loss", "sft"],
  ["eval_mean_token_accuracy", "Held-out token accuracy"],
  ["reward_before_filtering", "Reward before filtering"],
  ["exact_step_rate", "Steps equal to the expert's"],
  ["rewards/answer_correctness/mean", "Right answers in the batch"],
  ["kept_fraction", "Groups kept by dynamic sampling"],
  ["refills", "Refills"],
  ["format_error_rate", "Malformed completions"],
  ["entropy", "Entropy"],
  ["completions/mean_length", "Completion length, tokens"],
  ["loss", "Loss", "sft"], // GRPO's starts at 0 and says nothing
  ["mean_token_accuracy", "Token accuracy"],
];
/** Shares of a whole: their axis is 0 to 100%, so that 2% malformed does not look like 90%. */
const SHARES = new Set(["format_error_rate", "kept_fraction", "exact_step_rate", "eval_exact_step_rate",
  "rewards/answer_correctness/mean", "mean_token_accuracy", "eval_mean_token_accuracy"]);
const UNTOLD = new Set(["epoch", "total_flos", "train_loss", "eval_loss", "loss"]);
const PANEL_HEIGHT = 190;
const WHOLE_STEPS = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));

const shownRuns = new Set(report.runs.keys());
let smoothing = 0;
let panels = []; // those that are drawn

function showCurves() {
  const metrics = new Set(report.runs.flatMap((run) => Object.keys(run.series)));
  if (!metrics.size) return dropSection("curves");
  const main = PANELS.filter(([metric, , stage]) => runsWith(metric, stage).length);
  const named = new Set(main.map(([metric]) => metric));
  const others = [...metrics].filter((m) => !named.has(m) && !UNTOLD.has(m)).sort().map((m) => [m, m]);
  const grid = el("div", { class: "panels" });
  const otherGrid = el("div", { class: "panels" });
  const more = el("details", { toggle: () => more.open && !otherGrid.firstChild && drawPanels(otherGrid, others) },
    el("summary", {}, `All other metrics (${others.length})`), otherGrid);
  const notes = report.differences.map((text) => el("p", { class: "notice" }, text));
  byId("curves").append(...notes, curveControls(), grid, others.length ? more : "");
  drawPanels(grid, main);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
}

const runsWith = (metric, stage) =>
  [...report.runs.keys()].filter((r) => {
    const run = report.runs[r];
    return run.series[metric] && (!stage || run.stage === stage || run.stage === null);
  });

function curveControls() {
  const toggles = report.runs.map((run, r) => {
    const toggle = () => (shownRuns.has(r) ? shownRuns.delete(r) : shownRuns.add(r), redrawAll());
    const box = el("input", { type: "checkbox", checked: true, change: toggle });
    return el("label", { class: "toggle" }, box, swatch(r), run.name);
  });
  const smooth = select({ id: "smoothing", change: () => ((smoothing = Number(smooth.value)), redrawAll()) },
    [[0, "off"], [3, "over 3 points"], [10, "over 10 points"], [30, "over 30 points"]]);
  const legend = el("fieldset", { class: "toggles" }, el("legend", {}, "Runs"), toggles);
  const hint = el("span", { class: "quiet hint" }, "Drag to zoom, double-click to see all again.");
  return el("div", { class: "controls" }, legend, field("Smoothing", smooth), hint);
}

function drawPanels(grid, list) {
  for (const [metric, title, stage] of list) {
    const readout = el("span", { class: "readout" });
    const plot = el("div", { class: "plot", role: "img", "aria-label": `${title} by training step` });
    const panel = { metric, title, stage, readout, plot, chart: null };
    grid.append(el("figure", { "data-metric": metric }, el("figcaption", {}, el("b", {}, title), readout), plot));
    panels.push(panel);
    drawPanel(panel);
    new ResizeObserver(() => panel.chart?.setSize({ width: plot.clientWidth, height: PANEL_HEIGHT })).observe(plot);
  }
}

function redrawAll() {
  panels.forEach(drawPanel);
}

function drawPanel(panel) {
  panel.chart?.destroy();
  const runs = runsWith(panel.metric, panel.stage).filter((r) => shownRuns.has(r));
  const curves = runs.map((r) => smoothed(report.runs[r].series[panel.metric]));
  const steps = [...new Set(curves.flatMap((curve) => curve.step))].sort((a, b) => a - b);
  const columns = curves.map((curve) => {
    const values = new Map(curve.step.map((step, i) => [step, curve.value[i]]));
    return steps.map((step) => values.get(step));
  });
  const share = SHARES.has(panel.metric);
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: ink("--quiet"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const options = {
    width: panel.plot.clientWidth || 320,
    height: PANEL_HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: "steps", scales: ["x", null] }, points: { size: 6 } },
    scales: { x: { time: false }, y: share ? { range: [0, 1] } : {} },
    axes: [{ ...axis, size: 26, space: 60, incrs: WHOLE_STEPS }, { ...axis, size: 46, space: 34, values: (_, ticks) => ticks.map(share ? wholePercent : tick) }],
    series: [{}, ...runs.map((r, i) => ({
      stroke: ink(`--run-${r % 8}`),
      width: 1.75,
      dash: r < 8 ? undefined : [6, 4],
      spanGaps: true,
      points: { show: curves[i].step.length < 15, size: 5 },
    }))],
    hooks: { setCursor: [(chart) => showValues(panel, runs, columns, steps, chart.cursor.idx)] },
  };
  panel.chart = new uPlot(options, [steps, ...columns], panel.plot);
  showValues(panel, runs, columns, steps, null);
}

const wholePercent = (value) => `${Math.round(100 * value)}%`;
const tick = (value) => (Math.abs(value) >= 1e4 ? value.toExponential(0) : String(Number(value.toPrecision(6))));

/** The values at the cursor (or the nearest earlier ones), the last ones without it. */
function showValues(panel, runs, columns, steps, index) {
  const at = index ?? steps.length - 1;
  const values = runs.map((r, i) => {
    let j = at;
    while (j > 0 && columns[i][j] === undefined) j--;
    return el("span", {}, swatch(r), number(columns[i][j]));
  });
  panel.readout.replaceChildren(el("span", { class: "quiet" }, steps.length ? `step ${steps[at]}` : ""), ...values);
}

/** The exponential mean that forgets at the pace of `smoothing` points; unbiased at the start. */
function smoothed({ step, value }) {
  if (!smoothing) return { step, value };
  const keep = 1 - 1 / smoothing;
  let [sum, weight] = [0, 0];
  return { step, value: value.map((v) => (([sum, weight] = [sum * keep + v, weight * keep + 1]), sum / weight)) };
}
