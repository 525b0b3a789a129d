// The rollout viewer: run -> step -> group -> rollout. Only the group that is looked at is in the document.

const view = {
  run: 0,
  groups: [], // the run's index: {step, chunk, at, trajectory, step_index, kept, reward, advantage, error}
  hits: [], // of each group, how many rollouts pass the filters
  steps: [], // {step, first, end}: where a step's groups stand in the index
  group: 0,
  rollout: 0,
};
const FILTERS = ["low", "high", "error", "kept", "trajectory"];
const parts = {}; // the viewer's elements by name

async function showRollouts() {
  const runs = [...report.runs.keys()].filter((r) => report.runs[r].index);
  if (!runs.length) {
    byId("rollouts").append(el("p", { id: "no-rollouts", class: "quiet" }, "No rollouts were kept."));
    return;
  }
  buildViewer(runs);
  const wanted = report.runs.findIndex((run) => run.name === address.get("run"));
  parts.run.value = runs.includes(wanted) ? wanted : runs[0];
  for (const name of FILTERS) parts[name].value = address.get(name) ?? "";
  await openRun();
}

function buildViewer(runs) {
  const filter = (name, attributes) => el("input", { id: `filter-${name}`, input: filtersChanged, ...attributes });
  parts.run = select({ id: "run", change: () => (remember("run", report.runs[parts.run.value].name), openRun()) },
    runs.map((r) => [r, `${report.runs[r].name} (${report.runs[r].n_rollouts.toLocaleString("en")} rollouts)`]));
  parts.step = select({ id: "step", "aria-label": "Step", change: () => goTo(view.steps[parts.step.selectedIndex].first, 1) }, []);
  parts.low = filter("low", { type: "number", step: "any", placeholder: "from", "aria-label": "Reward from" });
  parts.high = filter("high", { type: "number", step: "any", placeholder: "to", "aria-label": "Reward up to" });
  parts.error = select({ id: "filter-error", change: filtersChanged }, []);
  parts.kept = select({ id: "filter-kept", change: filtersChanged },
    [["", "any"], ["yes", "trained on"], ["no", "dropped"]]);
  parts.trajectory = filter("trajectory", { type: "search", placeholder: "part of its id" });
  parts.status = el("p", { id: "matches", role: "status", class: "quiet" });
  parts.strip = el("canvas", { class: "strip", role: "img", click: stripClicked });
  parts.where = el("p", { id: "where" });
  parts.prompt = el("details", { open: true, class: "prompt" });
  parts.list = el("div", { id: "group", role: "listbox", tabindex: "0", "aria-label": "Rollouts of the group",
    "aria-describedby": "keys", keydown: keyPressed });
  parts.detail = el("div", { id: "detail", "aria-live": "polite" });
  const steps = el("span", { class: "row" }, button("◀", "Previous step", () => moveStep(-1)), parts.step,
    button("▶", "Next step", () => moveStep(1)));
  const groups = el("span", { class: "row" },
    button("◀", "Previous group", () => moveGroup(-1)), button("▶", "Next group", () => moveGroup(1)));
  const reward = el("span", { class: "row" }, parts.low, parts.high);
  byId("rollouts").append(
    el("div", { class: "controls" }, field("Run", parts.run), field("Step", steps)),
    el("div", { class: "controls filters" }, field("Reward", reward), field("Format", parts.error),
      field("Group", parts.kept), field("Trajectory", parts.trajectory), button("Clear filters", "Clear filters", clearFilters)),
    parts.status, parts.strip, el("div", { class: "row where" }, groups, parts.where), parts.prompt,
    el("div", { class: "viewer" },
      el("div", {}, parts.list, el("p", { id: "keys", class: "quiet" },
        "↑ ↓ rollout · ← → group · Shift ← → step")),
      parts.detail));
  new ResizeObserver(drawStrip).observe(parts.strip);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawStrip);
}

async function openRun() {
  view.run = Number(parts.run.value);
  view.groups = await chunk(report.runs[view.run].index);
  view.steps = [];
  view.groups.forEach(({ step }, i) => {
    if (view.steps.at(-1)?.step !== step) view.steps.push({ step, first: i });
    view.steps.at(-1).end = i + 1;
  });
  parts.step.replaceChildren(...view.steps.map(({ step }) => el("option", { value: step }, step)));
  const errors = [...new Set(view.groups.flatMap((group) => group.error))].filter(Boolean).sort();
  const chosen = parts.error.value || address.get("error") || "";
  parts.error.replaceChildren(...[["", "any"], ["none", "well formed"], ["some", "malformed"], ...errors.map((e) => [`: ${e}`, e])]
    .map(([value, text]) => el("option", { value }, text)));
  parts.error.value = chosen;
  if (parts.error.selectedIndex < 0) parts.error.value = "";
  applyFilters();
  const step = view.steps.find((s) => String(s.step) === address.get("step")) ?? view.steps.at(-1);
  const group = Math.min(step.first + Number(address.get("group") ?? 1) - 1, step.end - 1);
  await show(nearestHit(group, 1), address.has("rollout") ? Number(address.get("rollout")) - 1 : null);
}

// --- filters ---------------------------------------------------------------------------------------------

function rolloutPasses(group, i) {
  const [low, high, error] = [parts.low.value, parts.high.value, parts.error.value];
  const reward = group.reward[i];
  if (low !== "" && !(reward !== null && reward >= Number(low))) return false;
  if (high !== "" && !(reward !== null && reward <= Number(high))) return false;
  if (error === "none") return !group.error[i];
  if (error === "some") return Boolean(group.error[i]);
  return !error || error === `: ${group.error[i]}`;
}

function groupPasses(group) {
  const [kept, trajectory] = [parts.kept.value, parts.trajectory.value.trim()];
  if (kept && group.kept !== (kept === "yes")) return false;
  return !trajectory || String(group.trajectory ?? "").includes(trajectory);
}

function applyFilters() {
  view.hits = view.groups.map((group) =>
    groupPasses(group) ? group.reward.filter((_, i) => rolloutPasses(group, i)).length : 0);
  const sum = (values) => values.reduce((total, value) => total + value, 0).toLocaleString("en");
  const all = sum(view.groups.map((group) => group.reward.length));
  const groups = view.hits.filter(Boolean).length.toLocaleString("en");
  parts.status.textContent = `${sum(view.hits)} of ${all} rollouts match, in ${groups} of ${view.groups.length.toLocaleString("en")} groups`;
}

function filtersChanged() {
  for (const name of FILTERS) remember(name, parts[name].value);
  applyFilters();
  goTo(view.group, 1);
}

function clearFilters() {
  for (const name of FILTERS) parts[name].value = "";
  filtersChanged();
}

// --- moving ----------------------------------------------------------------------------------------------

/** The group at `start` or the next that passes the filters, in one direction, else in the other; else `start`. */
function nearestHit(start, direction) {
  for (const way of [direction, -direction])
    for (let i = start; i >= 0 && i < view.groups.length; i += way) if (view.hits[i]) return i;
  return start;
}

const goTo = (group, direction) => show(nearestHit(group, direction), null).then(rememberView);

function moveGroup(by) {
  const next = nearestHit(view.group + by, by);
  if (view.groups[next] && Math.sign(next - view.group) === by) return goTo(next, by);
}

function moveStep(by) {
  const at = view.steps.findIndex((step) => view.group < step.end) + by;
  const next = view.steps[at] && nearestHit(by > 0 ? view.steps[at].first : view.steps[at].end - 1, by);
  if (next === undefined || Math.sign(next - view.group) !== by) return;
  const { first } = view.steps.find((step) => next < step.end);
  return goTo(first, 1);
}

function pick(rollout) {
  const last = view.groups[view.group].reward.length - 1;
  return show(view.group, Math.max(0, Math.min(last, rollout))).then(rememberView);
}

const MOVES = {
  ArrowUp: () => pick(view.rollout - 1),
  ArrowDown: () => pick(view.rollout + 1),
  Home: () => pick(0),
  End: () => pick(Infinity),
  ArrowLeft: (shift) => (shift ? moveStep(-1) : moveGroup(-1)),
  ArrowRight: (shift) => (shift ? moveStep(1) : moveGroup(1)),
};

function keyPressed(event) {
  const move = MOVES[event.key];
  if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  move(event.shiftKey);
}

function rememberView() {
  const { step, first } = stepOf(view.group);
  remember("step", step);
  remember("group", view.group - first + 1);
  remember("rollout", view.rollout + 1);
}

const stepOf = (group) => view.steps.find(({ end }) => group < end);

// --- showing ---------------------------------------------------------------------------------------------

/** Show a group and one of its rollouts; null: the first that passes the filters. */
async function show(at, rollout) {
  const group = view.groups[at];
  view.group = at;
  view.rollout = rollout ?? Math.max(0, group.reward.findIndex((_, i) => view.hits[at] && rolloutPasses(group, i)));
  try {
    const texts = (await chunk(group.chunk))[group.at];
    if (view.groups[view.group] !== group) return; // the reader has gone on meanwhile
    showGroup(group, texts);
  } catch (error) {
    parts.detail.replaceChildren(el("p", { class: "notice" }, error.message));
  }
}

function showGroup(group, texts) {
  const { first, end, step } = stepOf(view.group);
  parts.step.value = step;
  const scored = group.reward.filter((reward) => reward !== null);
  const mean = scored.reduce((sum, reward) => sum + reward, 0) / scored.length;
  const std = Math.sqrt(scored.reduce((sum, reward) => sum + (reward - mean) ** 2, 0) / scored.length);
  parts.where.replaceChildren(
    el("b", {}, `Group ${view.group - first + 1} of ${end - first}`),
    group.trajectory === null ? "" : ` · trajectory ${group.trajectory}`,
    group.step_index === null ? "" : `, step ${group.step_index}`,
    ` · ${group.kept ? "trained on" : "dropped: no signal, or the batch was full"}`,
    scored.length ? ` · mean reward ${number(mean)}, std ${number(std)}` : "");
  const turns = typeof texts.prompt === "string" ? [{ role: "prompt", content: texts.prompt }] : texts.prompt;
  parts.prompt.replaceChildren(el("summary", {}, "Prompt"),
    ...turns.flatMap(({ role, content }) => [el("h4", {}, role), textBox(content)]));
  parts.list.replaceChildren(...texts.rollouts.map((rollout, i) => listEntry(group, rollout, i)));
  parts.list.setAttribute("aria-activedescendant", `rollout-${view.rollout}`);
  showDetail(group, texts);
  drawStrip();
}

/** Long texts are compared once the reader stays with them, so that keys are answered at once. */
function showDetail(group, texts) {
  clearTimeout(view.later);
  parts.detail.replaceChildren(...detail(group, texts, view.rollout, QUICK_PAIRS));
  if (!parts.detail.querySelector(".waiting")) return;
  view.later = setTimeout(() => parts.detail.replaceChildren(...detail(group, texts, view.rollout, Infinity)), 250);
}

const QUICK_PAIRS = 2e6;

function listEntry(group, rollout, i) {
  const chosen = i === view.rollout;
  const passes = view.hits[view.group] && rolloutPasses(group, i);
  const [reward, advantage] = [group.reward[i], group.advantage[i]];
  const said = group.error[i] ?? rollout.action ?? rollout.completion;
  return el("div", {
    role: "option", id: `rollout-${i}`, "aria-selected": String(chosen), class: passes ? "entry" : "entry off",
    click: () => pick(i),
  },
  el("span", { class: "reward", style: `--share: ${Math.max(0, reward ?? 0)}` }, number(reward)),
  el("span", { class: `advantage ${advantage > 0 ? "up" : advantage < 0 ? "down" : ""}`, title: "advantage" }, signed(advantage)),
  el("span", { class: group.error[i] ? "said error" : "said" }, said.slice(0, 120)));
}

const signed = (value) => (value === null ? "–" : value > 0 ? `+${value.toFixed(2)}` : value.toFixed(2).replace("-", "−"));

function detail(group, texts, i, maxPairs) {
  const rollout = texts.rollouts[i];
  const facts = [["reward", number(group.reward[i])], ["advantage", signed(group.advantage[i])],
    ...Object.entries(rollout.parts).map(([name, value]) => [name, number(value)])];
  const head = el("h3", {}, `Rollout ${i + 1} of ${group.reward.length}`);
  const list = el("p", { class: "facts" }, facts.map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value))));
  const error = group.error[i] && el("p", { class: "notice" }, `Malformed: ${group.error[i]}`);
  const body = rollout.action === undefined ? wholeCompletion(texts, rollout) : actionAndExpert(texts, rollout, maxPairs);
  return [head, list, error || "", ...body];
}

function wholeCompletion(texts, rollout) {
  const known = texts.answer ?? texts.expert;
  return [el("h4", {}, "Completion"), textBox(rollout.completion),
    ...(known ? [el("h4", {}, texts.answer ? "Known answer" : "Expert's action"), textBox(known)] : [])];
}

function actionAndExpert(texts, rollout, maxPairs) {
  const thought = rollout.thought ? [el("h4", {}, "Thought"), textBox(rollout.thought)] : [];
  if (!texts.expert) return [...thought, el("h4", {}, "Action"), textBox(rollout.action)];
  const { elements } = report.runs[view.run];
  const [action, expert] = [rollout.action_compared ?? rollout.action, texts.expert_compared ?? texts.expert];
  const later = action.length * expert.length > maxPairs;
  const result = later ? null : compareTexts(action, expert);
  const sides = result ?? { action: [[action, true]], expert: [[expert, true]] };
  return [...thought,
    el("h4", {}, "Action"), diffBox(sides.action, "extra", "only in the action"),
    el("h4", {}, "Expert's action"), diffBox(sides.expert, "lacking", "only in the expert's"),
    el("p", { class: later ? "quiet waiting" : "quiet", id: "similarity" },
      later ? "Comparing …" : similarityLine(result, elements))];
}

function similarityLine(result, elements) {
  if (!result) return "Too long, or too repetitive, to colour the differences here.";
  const { matched, total } = result;
  const line = `${matched} characters in matching blocks: 2 · ${matched} / ${total} = ${number(total ? (2 * matched) / total : 1)}`;
  return line + (elements === "latex" ? " (LaTeX in one spelling, as the reward compares it)" : "");
}

const textBox = (text) => el("pre", { class: "text" }, text);

/** Pieces of a text; what the other lacks is marked by colour and underline, line ends made visible in it. */
const diffBox = (pieces, kind, title) => el("pre", { class: "text" }, pieces.map(([text, shared]) =>
  shared ? text : el("mark", { class: kind, title }, text.replaceAll("\n", "↵\n"))));

// --- the step at a glance: a dot per rollout, a column per group ---------------------------------------------

function drawStrip() {
  if (!view.groups.length) return;
  const canvas = parts.strip;
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const { first, end, step } = stepOf(view.group);
  canvas.setAttribute("aria-label", `Rewards of the ${end - first} groups of step ${step}; a column per group`);
  const rewards = view.groups.slice(first, end).flatMap((group) => group.reward);
  const [low, high] = [Math.min(0, ...rewards), Math.max(1, ...rewards)];
  const y = (reward) => height - 8 - ((reward - low) / (high - low)) * (height - 16);
  const column = (width - STRIP_LEFT) / (end - first);
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(name).trim();
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  for (const value of new Set([low, 0, high])) {
    pen.fillStyle = ink("--line");
    pen.fillRect(STRIP_LEFT, y(value), width, 1);
    pen.fillStyle = ink("--quiet");
    pen.fillText(number(value), 0, y(value) + 4);
  }
  pen.fillStyle = ink("--chosen");
  pen.fillRect(STRIP_LEFT + (view.group - first) * column, 0, Math.max(2, column), height);
  for (let g = first; g < end; g++) {
    const group = view.groups[g];
    pen.fillStyle = ink(group.kept ? "--accent" : "--quiet");
    pen.globalAlpha = view.hits[g] ? 0.6 : 0.1;
    for (const reward of group.reward) {
      if (reward === null) continue;
      pen.beginPath();
      pen.arc(STRIP_LEFT + (g - first + 0.5) * column, y(reward), Math.min(3, Math.max(1.2, column / 3)), 0, 7);
      pen.fill();
    }
  }
}

const STRIP_LEFT = 30;

function stripClicked(event) {
  const { first, end } = stepOf(view.group);
  const share = (event.offsetX - STRIP_LEFT) / (parts.strip.clientWidth - STRIP_LEFT);
  show(first + Math.max(0, Math.min(end - first - 1, Math.floor(share * (end - first)))), null).then(rememberView);
}
