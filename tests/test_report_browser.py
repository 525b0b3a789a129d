"""The report's page in a real browser, from a file, as a reader has it."""

import json
import random
import time

import pyarrow
import pyarrow.parquet as parquet
import pytest
from browser import CHROMIUM, Page
from run_folders import write_evaluation, write_run

from srl.report import page as report_page
from srl.report.page import write_report
from srl.rewards.similarity import matched

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's `chromium`")

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two runs of 3 steps × 4 groups × 8 rollouts, and two evaluations."""
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / "first"), write_run(folder / "second", seed=1)]
    evaluations = [write_evaluation(folder / "eval-base"), write_evaluation(folder / "eval-srl", 0.8, (0.7, 0.9))]
    write_report([*runs, *evaluations], folder / "r.html")
    return folder / "r.html"


@pytest.fixture
def page(browser, report):
    """The report, opened; afterwards nothing may have gone wrong or left the machine."""
    browser.resize(1280, 900)
    browser.errors.clear()
    browser.requests.clear()
    browser.open(report)
    yield browser
    assert browser.errors == []
    assert browser.requests == []


def place(page):
    """(step, group in the step, rollout), each as shown."""
    step = page.run("document.querySelector('#step').value")
    group = page.text("#where b").split()[1]
    return int(step), int(group), int(page.text("#detail h3").split()[1])


def arrives_at(page, expected):
    """Texts are unpacked in the background, so a move may take a moment."""
    deadline = time.monotonic() + 10
    while (there := place(page)) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert there == expected


def matches(page):
    """(rollouts, groups) that pass the filters."""
    words = page.text("#matches").split()
    return int(words[0].replace(",", "")), int(words[words.index("in") + 1].replace(",", ""))


def test_everything_is_there(page):
    assert [page.text(f"#{name} h2") for name in ("runs", "results", "curves", "rollouts", "repeat")] == [
        "Runs",
        "Results",
        "Curves",
        "Rollouts",
        "Repeat a run",
    ]
    assert page.run("document.querySelector('#problems').hidden")
    assert "0.250 → 0.750" in page.text("#runs")
    assert "★ 80.0 [70.0, 90.0]" in page.text("#results")
    drawn = page.run("[...document.querySelectorAll('figure')].map(f => f.dataset.metric)")
    assert {"eval_reward", "reward_before_filtering", "kept_fraction", "refills"} <= set(drawn)
    assert page.run("document.querySelectorAll('figure canvas').length") == len(drawn)
    page.run("document.querySelectorAll('#repeat details').forEach(details => details.open = true)")
    assert "srl train 'a b.toml'" in page.text("#repeat")
    assert "c0ffee" in page.text("#repeat")


def test_nothing_can_be_fetched_from_the_page(browser, report):
    browser.open(report)
    assert browser.run("fetch('https://example.com').then(() => 'sent', () => 'refused')") == "refused"
    assert any("Content Security Policy" in error for error in browser.errors)


def test_what_models_write_is_text(browser, tmp_path):
    browser.errors.clear()
    write_report([write_run(tmp_path / "<img src=x onerror=hacked=3>", spice=ATTACK)], tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    assert ATTACK in browser.text(".prompt pre")
    assert ATTACK in browser.text("#detail")
    assert browser.run("document.images.length") == 0
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.errors == []


def test_arrow_keys_move_through_rollouts_groups_and_steps(page):
    page.run("document.querySelector('#group').focus()")
    arrives_at(page, (3, 1, 1))
    for key, shift, expected in (
        ("ArrowDown", False, (3, 1, 2)),
        ("End", False, (3, 1, 8)),
        ("ArrowDown", False, (3, 1, 8)),
        ("ArrowUp", False, (3, 1, 7)),
        ("ArrowRight", False, (3, 2, 1)),
        ("ArrowLeft", True, (2, 1, 1)),
        ("ArrowLeft", False, (1, 4, 1)),
        ("ArrowRight", True, (2, 1, 1)),
        ("ArrowRight", True, (3, 1, 1)),
        ("ArrowRight", True, (3, 1, 1)),
    ):
        page.press(key, shift=shift)
        arrives_at(page, expected)
        assert page.run("document.activeElement.id") == "group"
        assert page.run("document.querySelector('#group [aria-selected=true]').id") == f"rollout-{expected[2] - 1}"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_filters_leave_what_they_say(page):
    assert matches(page) == (96, 12)
    page.fill("#filter-error", "some")
    assert matches(page) == (12, 12)
    assert "Malformed: no <think>" in page.text("#detail")
    page.fill("#filter-kept", "yes")
    assert matches(page) == (6, 6)
    page.fill("#filter-trajectory", "problem-2-")
    assert matches(page) == (2, 2)
    arrives_at(page, (2, 3, 2))  # back from step 3, where nothing is left
    assert page.run("document.querySelectorAll('.entry:not(.off)').length") == 1
    page.run("[...document.querySelectorAll('button')].find(b => b.textContent === 'Clear filters').click()")
    assert matches(page) == (96, 12)
    page.fill("#filter-low", "0.9")
    n_good, _ = matches(page)
    rewards = page.run("view.groups.flatMap(group => group.reward)")
    assert n_good == sum(reward >= 0.9 for reward in rewards)
    page.fill("#filter-high", "0.95")
    assert matches(page)[0] == sum(0.9 <= reward <= 0.95 for reward in rewards)
    page.fill("#filter-trajectory", "nowhere")
    assert matches(page) == (0, 0)


def test_the_other_run_can_be_chosen_and_a_reload_keeps_the_place(page):
    page.fill("#run", "1")
    page.fill("#step", "2")
    page.run("document.querySelector('#group').focus()")
    page.press("ArrowRight")
    page.press("ArrowDown")
    page.wait("location.hash.includes('rollout')")
    before = page.text("#detail"), page.text("#where")
    page.run("void (window.old = true, location.reload())")
    page.wait("!window.old && document.querySelector('#detail h3')")
    assert (page.text("#detail"), page.text("#where")) == before
    assert page.run("document.querySelector('#run').value") == "1"


def test_the_colours_show_what_the_reward_counts(page):
    rng = random.Random(0)
    pairs = [
        ("", ""),
        ("", "a"),
        ("abxcd", "abcd"),
        ("a" * 300, "a" * 200 + "b" + "a" * 90),
        ("\U0001f600a", "b\U0001f600"),
    ]
    alphabets = ["ab", "abcdefgh ", "a\U0001f600\U0001f601é\n", "0123456789+-*/=()"]
    for _ in range(300):
        letters = rng.choice(alphabets)
        pairs.append(tuple("".join(rng.choices(letters, k=rng.randrange(60))) for _ in range(2)))
    found = page.run(f"{json.dumps(pairs)}.map(([a, b]) => compareTexts(a, b))")
    for (a, b), result in zip(pairs, found, strict=True):
        assert result["matched"] == matched(a, b), (a, b)
        assert result["total"] == len(a) + len(b)
        assert "".join(piece for piece, _ in result["action"]) == a
        assert "".join(piece for piece, _ in result["expert"]) == b
        shared = ["".join(text for text, is_shared in result[side] if is_shared) for side in ("action", "expert")]
        assert len(shared[0]) == len(shared[1]) == result["matched"]


def test_a_degenerate_rollout_does_not_hang_the_page(page):
    start = time.monotonic()
    assert page.run("compareTexts('xa'.repeat(4000), 'a'.repeat(4000))") is None
    assert time.monotonic() - start < 10  # half a second where nothing else runs
    long = page.run("compareTexts('a'.repeat(4000), 'a'.repeat(4000))")
    assert (long["matched"], long["action"]) == (4000, [["a" * 4000, True]])


def test_long_texts_are_compared_when_the_reader_stays(browser, tmp_path):
    write_report([write_run(tmp_path / "run", n_steps=1, n_groups=1, n_words=500)], tmp_path / "r.html")
    browser.errors.clear()
    browser.open(tmp_path / "r.html")
    browser.run("document.querySelector('#group').focus()")
    browser.press("ArrowDown")
    browser.wait("document.querySelector('#similarity')?.textContent.includes('in matching blocks')")
    shown = float(browser.text("#similarity").split("= ")[-1])
    assert shown == pytest.approx(browser.run("view.groups[0].reward[1]"), abs=6e-4)
    assert browser.run("document.querySelector('#detail h3').textContent") == "Rollout 2 of 8"
    assert browser.errors == []


def test_differences_are_marked_in_both_texts(page):
    page.fill("#filter-high", "0.99")
    page.fill("#filter-error", "none")
    page.wait("document.querySelector('mark.extra') && document.querySelector('mark.lacking')")
    shown = float(page.text("#similarity").split("= ")[-1])
    reward = page.run("view.groups[view.group].reward[view.rollout]")
    assert shown == pytest.approx(reward, abs=6e-4)


def test_runs_can_be_hidden_and_curves_smoothed(page):
    curves = "panels.find(panel => panel.metric === 'reward_before_filtering').chart"
    raw = page.run(f"{curves}.data[1]")
    assert raw == page.run("report.runs[0].series.reward_before_filtering.value")
    page.fill("#smoothing", "3")
    smooth = page.run(f"{curves}.data[1]")
    assert smooth[0] == raw[0]
    assert smooth[1] == pytest.approx((raw[1] + raw[0] * 2 / 3) / (5 / 3))
    assert page.run(f"{curves}.data.length") == 3
    page.run("document.querySelector('.toggles input').click()")
    assert page.run(f"{curves}.data.length") == 2


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_no_wider_than_the_window(page, width):
    page.resize(width, 900)
    page.wait(f"innerWidth === {width}")
    assert page.run("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(page):
    nameless = page.run(
        "[...document.querySelectorAll('input, select, button, canvas.strip, [role=listbox]')].filter(control =>"
        " !(control.getAttribute('aria-label') || control.labels?.length)).map(control => control.outerHTML)"
    )
    assert nameless == []


@pytest.mark.slow
def test_twenty_thousand_rollouts_are_quick(browser, tmp_path):
    write_report([write_run(tmp_path / "run", n_steps=10, n_groups=250, n_words=60)], tmp_path / "r.html")
    browser.errors.clear()
    start = time.monotonic()
    browser.open(tmp_path / "r.html")
    opened = time.monotonic() - start
    assert matches(browser)[0] == 20_000
    assert browser.run("document.querySelectorAll('*').length") < 1500
    slowest = browser.run(
        """(async () => {
          let slowest = 0;
          for (const filter of ["0.5", "", "0.8"]) {
            const start = performance.now();
            parts.low.value = filter;
            applyFilters();
            for (let i = 0; i < 10; i++) await (i % 5 ? moveGroup(1) : moveStep(-1));
            slowest = Math.max(slowest, performance.now() - start);
          }
          return slowest;
        })()"""
    )
    print(f"opened in {opened:.2f} s, ten moves and a filter at most {slowest:.0f} ms")
    assert opened < 10  # generous: other work may share the machine
    assert slowest < 5000
    assert browser.errors == []


def test_rollouts_beside_the_page_are_loaded_one_by_one(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "MAX_PAGE_BYTES", 100)
    write_report([write_run(tmp_path / "run")], tmp_path / "r 1.html")
    browser.errors.clear()
    browser.open(tmp_path / "r 1.html")
    assert browser.errors == []
    browser.run("document.querySelector('#group').focus()")
    browser.press("ArrowLeft", shift=True)
    browser.wait("document.querySelector('.prompt pre').textContent.startsWith('Question: 2.0')")
    assert (browser.errors, browser.requests) == ([], [])
    for path in (tmp_path / "r 1_files").iterdir():
        path.unlink()
    browser.press("ArrowLeft", shift=True)
    browser.wait("document.querySelector('#detail .notice')?.textContent.includes('is missing')")


def test_whole_answers_are_shown_with_the_known_one(browser, tmp_path):
    """Rollouts of RLVR have no steps."""
    run = write_run(tmp_path / "run", stage="rlvr", n_steps=1, n_groups=1)
    path = run / "completions/completions_00001.parquet"
    table = parquet.read_table(path).drop_columns(["thought", "action", "format_error", "expert_action", "step_index"])
    parquet.write_table(table.append_column("answer", pyarrow.array(["42"] * 8)), path)
    write_report([run], tmp_path / "r.html")
    browser.errors.clear()
    browser.open(tmp_path / "r.html")
    shown = browser.text("#detail")
    assert table["completion"][0].as_py()[0]["content"].split()[0] in shown
    assert "Known answer\n42" in shown
    assert browser.errors == []


def test_a_live_page_loads_itself_again(browser, tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", finished=False)
    report = report_page.collect([run])
    monkeypatch.setattr(report_page, "SECONDS_BETWEEN_LOOKS", 1)
    report_page._write_page(report, tmp_path / "r.html", live=True)
    browser.open(tmp_path / "r.html")
    browser.fill("#step", "2")
    browser.wait("location.hash.includes('step=2')")
    browser.run("void (window.old = true)")
    browser.wait("!window.old && document.querySelector('#detail h3')")
    arrives_at(browser, (2, 1, 1))
    browser.run("document.querySelector('#follow').click()")
    browser.run("void (window.old = true)")
    time.sleep(2.5)
    assert browser.run("window.old")


def test_a_damaged_run_still_makes_a_page(browser, tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("run.json", "config.toml", "metrics.jsonl"):
        (run / name).write_text("{" if name == "run.json" else "")
    write_report([run], tmp_path / "r.html")
    browser.errors.clear()
    browser.open(tmp_path / "r.html")
    assert "run.json is damaged" in browser.text("#problems")
    assert matches(browser) == (96, 3 * 4)
    for path in (run / "completions").iterdir():
        path.unlink()
    write_report([run, write_evaluation(tmp_path / "e")], tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    assert browser.text("#no-rollouts") == "No rollouts were kept."
    assert browser.errors == []
