showVerdicts();
showProblems();
showRuns();
showResults();
showCurves();
showRollouts();
showRepeat();

const written = new Date(report.written).toLocaleString();
byId("written").append(`written ${written} by srl ${report.srl}`);

if (report.live) {
  // The whole page is loaded again; the address holds what is looked at, the history entry where.
  const follow = el("input", { type: "checkbox", id: "follow", checked: history.state?.follow ?? true });
  byId("written").append(el("label", { class: "toggle" }, follow, `refreshes every ${report.live} s`));
  history.scrollRestoration = "manual";
  if (history.state) {
    requestAnimationFrame(() => {
      byId(history.state.focus)?.focus({ preventScroll: true });
      scrollTo(0, history.state.top);
    });
  }
  const note = () => history.replaceState(
    { follow: follow.checked, top: scrollY, focus: document.activeElement?.id ?? "" }, "", location.href);
  follow.addEventListener("change", note);
  setInterval(() => {
    note();
    if (follow.checked) location.reload();
  }, 1000 * report.live);
}

// Plain anchors would take the place of what the address holds.
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    byId(link.hash.slice(1)).scrollIntoView();
  });
}
