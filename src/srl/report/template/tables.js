// Everything that is read rather than played with: problems, runs, results, how to repeat a run.

function showProblems() {
  if (!report.problems.length) return;
  const lines = report.problems.map(({ name, text }) => el("li", {}, el("b", {}, name), `: ${text}`));
  byId("problems").append(el("h2", {}, "What is missing"), el("ul", {}, lines));
  byId("problems").hidden = false;
}

function showVerdicts() {
  if (!report.runs.length) return dropSection("verdict");
  const broken = report.runs.filter((run) => run.verdict.broken);
  const banners = broken.map((run) => el("p", { class: "notice" }, el("b", {}, run.name), `: ${run.verdict.broken}`));
  const lines = report.runs.map((run, r) => el("li", {}, swatch(r), el("b", {}, run.name), `: ${run.verdict.text}`));
  byId("verdict").append(...banners, el("ul", { class: "verdicts" }, lines));
}

function showRuns() {
  if (!report.runs.length) return dropSection("runs");
  const metrics = [...new Set(report.runs.flatMap((run) => Object.keys(run.held_out?.means ?? {})))];
  const heads = ["", "stage", "steps", "training took", ...metrics, "model kept of step"];
  const rows = report.runs.map((run, r) => [
    el("span", {}, swatch(r), run.name),
    run.stage ?? "–",
    `${run.last_step ?? "–"}${run.finished ? "" : ", not finished"}`,
    duration(run.seconds),
    ...metrics.map((metric) => beforeAndAfter(run.held_out?.means[metric])),
    String(run.held_out?.best_step ?? "–"),
  ]);
  const caption = "Held-out means before training → of the model that is kept; one number each, so without intervals";
  byId("runs").append(table(metrics.length ? caption : "Nothing was held out", heads, rows));
}

const beforeAndAfter = (pair) =>
  pair ? el("span", {}, `${pair[0].toFixed(3)} → `, el("b", {}, pair[1].toFixed(3))) : "–";

function showResults() {
  const { names, models, rows, notes } = report.results;
  if (!rows.length) return dropSection("results");
  const heads = ["", ...names.map((name, i) => el("span", { title: models[i] }, name))];
  const body = rows.map((row) => [
    el("span", {}, `${row.benchmark} ${row.column}`, row.asked && el("span", { class: "quiet" }, ` ${row.asked}`)),
    ...row.cells.map((cell, i) => cell === null ? "–" : resultCell(cell, row.best === i)),
  ]);
  const marked = rows.some((row) => row.best !== null);
  const key = marked ? "★: the whole interval lies above all others'." : "No score's interval lies above all others': none is marked best.";
  byId("results").append(
    table("Score in percent with its 95% interval over problems", heads, body),
    el("p", { class: "quiet" }, names.length > 1 ? key : "", " ", notes.join(" ")));
}

function resultCell(cell, best) {
  const [low, high] = cell.interval.map(percent);
  const bar = el("span", { class: "interval", "aria-hidden": "true", style:
    `--low: ${cell.interval[0]}; --high: ${cell.interval[1]}; --score: ${cell.score}` });
  const detail = `${cell.problems} problems, ${percent(cell.truncated)}% of the answers cut off`;
  return el("span", { title: detail }, el(best ? "strong" : "span", {}, best ? "★ " : "", percent(cell.score)),
    el("span", { class: "quiet" }, ` [${low}, ${high}]`), bar);
}

function showRepeat() {
  if (!report.runs.length) return dropSection("repeat");
  byId("repeat").append(...report.runs.map((run, r) =>
    el("details", { open: report.runs.length === 1 }, el("summary", {}, swatch(r), run.name), runFacts(run))));
}

function runFacts(run) {
  const { facts } = run;
  const rows = [
    ["to repeat it", command(run.repeat)],
    ["started by", run.started_by ? command(run.started_by) : "–"],
    ["folder", run.folder],
    ["started", facts.started ?? "–"],
    ["commit", facts.git_commit ?? "not known"],
    ["seed", /^seed = (.*)$/m.exec(run.config)?.[1] ?? "–"],
    ["starts from", facts.starts_from ?? "–"],
    ["machine", [facts.platform, facts.python && `Python ${facts.python}`].filter(Boolean).join(", ") || "–"],
    ["versions", Object.entries(facts.versions ?? {}).map((pair) => pair.join(" ")).join(", ") || "–"],
  ];
  const list = el("dl", {}, rows.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
  const config = el("pre", { tabindex: "0", "aria-label": `config.toml of ${run.name}` }, run.config || "–");
  return el("div", {}, list, el("h3", {}, "config.toml"), config);
}

function command(text) {
  const copy = button("copy", "Copy the command", () => {
    navigator.clipboard?.writeText(text).then(() => (copy.textContent = "copied"));
  });
  return el("span", { class: "command" }, el("code", {}, text), navigator.clipboard ? copy : null);
}

function dropSection(id) {
  byId(id).remove();
  document.querySelector(`nav a[href="#${id}"]`).remove();
}
