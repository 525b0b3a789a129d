"use strict";
// Elements from strings. Nothing on this page parses HTML: what models wrote becomes text nodes only.

/** An element with attributes (functions become listeners, true becomes an empty attribute) and children. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const byId = (id) => document.getElementById(id);

/** A labelled control, or a row of controls that have names of their own. */
const field = (label, control) =>
  control.matches("input, select")
    ? el("label", { class: "field" }, el("span", {}, label), control)
    : el("div", { class: "field", role: "group", "aria-label": label }, el("span", {}, label), control);

const select = (attributes, options) =>
  el("select", attributes, options.map(([value, text]) => el("option", { value }, text)));

const button = (text, label, click, attributes = {}) =>
  el("button", { type: "button", "aria-label": label, title: label, click, ...attributes }, text);

function table(caption, heads, rows) {
  const head = el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text)));
  const body = rows.map(([first, ...cells]) =>
    el("tr", {}, el("th", { scope: "row" }, first), cells.map((cell) => el("td", {}, cell))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, el("span", {}, caption)), el("thead", {}, head), el("tbody", {}, body)));
}

const percent = (share) => `${(100 * share).toFixed(1)}`;

/** Few digits, the same width for neighbours. */
function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size >= 1000 || size < 0.001 ? value.toExponential(2) : value.toPrecision(size < 1 ? 3 : 4);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const [h, m, s] = [seconds / 3600, (seconds % 3600) / 60, seconds % 60].map(Math.floor);
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

/** One colour per run; the ninth starts again, dashed (curves.js). */
const colour = (run) => `var(--run-${run % 8})`;
const swatch = (run) => el("span", { class: "swatch", style: `--colour: ${colour(run)}`, "aria-hidden": "true" });
