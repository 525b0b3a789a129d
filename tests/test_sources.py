"""Where trajectories come from: every container, every kind of damage, and nothing lost on the way."""

import gzip
import json
from pathlib import Path

import datasets
import orjson
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srl.data.formats.columns import Columns
from srl.data.inputs import HubSource, hub_rows
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import FORMATS, Dropped, Found, Source, read_trajectories
from srl.errors import UserError
from srl.files import MAX_BYTES, write_jsonl
from srl.records import Trajectory

ALL = StepOptions(hold_out=0.0, targets="all")
SAMPLES = Path(__file__).parent / "samples"
SHARED = Path(__file__).parents[2] / "shared/data"


def solution(n, word="work"):
    return "\n\n".join(f"{k}. **Part {k}**\n{word} {k}" for k in range(1, n + 1))


def row(i, n=2):
    return {"id": f"r{i}", "problem": f"problem {i}", "solution": solution(n)}


def chat(*turns, **more):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)], **more}


def read(path, **options):
    found = Found()
    return list(read_trajectories(Source(path, **options), found)), found


def kept(items):
    return [item.id for item in items if isinstance(item, Trajectory)]


def write_everywhere(folder, rows):
    """The same rows in every container."""
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "c.json").write_bytes(orjson.dumps(rows))
    (folder / "d.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=1).encode()))
    (folder / "e.json").write_bytes(lines)  # JSON lines under the wrong name
    (folder / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)  # a byte-order mark
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "g.parquet")
    with pyarrow.ipc.new_stream(str(folder / "h.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    pyarrow.feather.write_feather(table, str(folder / "i.arrow"), compression="uncompressed")
    return sorted(folder.iterdir())


def test_every_container_gives_the_same_rows(tmp_path):
    expected = [f"r{i}" for i in range(40)]
    for path in write_everywhere(tmp_path, [row(i) for i in range(40)]):
        items, found = read(path)
        assert kept(items) == expected, path
        assert found.formats == {"numbered-solutions": 40}


def test_a_folder_saved_by_datasets_reads(tmp_path):
    datasets.Dataset.from_list([row(i) for i in range(5)]).save_to_disk(tmp_path / "saved")
    items, found = read(tmp_path / "saved")
    assert kept(items) == [f"r{i}" for i in range(5)]
    assert found.skipped_files == []


def test_hub_rows_stream_with_split_and_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me/set").mkdir(parents=True)
    write_jsonl(tmp_path / "me/set/test.jsonl", [{"q": f"problem {i}", "a": solution(3)} for i in range(4)])
    rows = list(hub_rows(HubSource("me/set", None, "test", None)))
    assert [row.where for row in rows] == [f"me/set[{i}]" for i in range(4)]
    assert rows[3].value == {"q": "problem 3", "a": solution(3)}
    with pytest.raises(UserError, match=r"me/set: .*Hub data set"):
        list(hub_rows(HubSource("me/set", None, "nosuch", None)))


def test_what_is_neither_file_nor_hub_data_set_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nobody/nothing: no such file, and not to be had as a Hub data set") as error:
        read("nobody/nothing", revision="v1")
    assert "\n" not in str(error.value)


def test_each_file_of_a_folder_has_a_format_of_its_own(tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    write_jsonl(tmp_path / "a.jsonl", [row(1)])
    write_jsonl(tmp_path / "deep/b.jsonl", [chat("p", "act", "seen", "done", id="b")])
    write_jsonl(tmp_path / "deep/er/c.jsonl", [{"id": "c", "problem": "p", "steps": [{"action": "x"}]}])
    write_jsonl(tmp_path / "deep/d.jsonl", [{"what": "else"}])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.jsonl").write_text("broken")
    items, found = read(tmp_path)
    assert kept(items) == ["r1", "b", "c"]
    assert found.formats == {"numbered-solutions": 1, "messages": 1, "srl": 1}
    assert found.recognised_by["messages"] == "`messages` with roles"
    assert [Path(path).name for path in found.skipped_files] == ["d.jsonl", "notes.txt"]


def test_rows_of_several_formats_in_one_file_are_each_read(tmp_path):
    rows = [row(1), chat("p", "act", "seen", "done", id="b"), {"id": "c", "problem": "p", "steps": [{"action": "x"}]}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert kept(read(tmp_path / "a.jsonl")[0]) == ["r1", "b", "c"]


def test_a_log_of_events_in_files_of_their_own_is_one_trajectory(tmp_path):
    events = json.loads((SAMPLES / "openhands_events.json").read_text())
    (tmp_path / "session/events").mkdir(parents=True)
    for index, event in enumerate(events):
        (tmp_path / f"session/events/{index}.json").write_text(json.dumps(event))
    (split,), _ = read(tmp_path)
    (whole,), _ = read(SAMPLES / "openhands_events.json")
    assert split.steps == whole.steps
    assert len(whole.steps) > 1


def test_a_format_can_be_asked_for(tmp_path):
    both = {**chat("p", "one", "two", "three"), **row(1, n=4)}
    write_jsonl(tmp_path / "a.jsonl", [both])
    assert [len(read(tmp_path / "a.jsonl", format=f)[0][0].steps) for f in ("messages", "numbered-solutions")] == [2, 4]
    named = Source(tmp_path / "a.jsonl", columns=Columns(solution="solution"))
    assert len(next(read_trajectories(named, Found())).steps) == 4
    with pytest.raises(UserError, match=r"--format mesages: expected auto or one of srl, .*messages"):
        read(tmp_path / "a.jsonl", format="mesages")


def test_every_sample_is_recognised_in_a_folder_with_all_others():
    items, found = read(SAMPLES)
    assert set(found.formats) == {candidate.NAME for candidate in FORMATS} - {"srl"}
    assert found.skipped_files == []
    assert found.formats.total() == len(items)


def test_cumulative_rows_leave_the_longest(tmp_path):
    rows = [{"id": str(i), "problem": "p", "steps": [{"action": f"s{k}"} for k in range(i + 1)]} for i in range(4)]
    other = {"id": "x", "problem": "q", "steps": [{"action": "s0"}]}
    write_jsonl(tmp_path / "a.jsonl", [*rows, other])
    items, _ = read(tmp_path / "a.jsonl")
    assert kept(items) == ["3", "x"]
    assert [item.reason for item in items if isinstance(item, Dropped)] == ["beginning of the next"] * 3


# --- what became of every file ----------------------------------------------------------------------


def test_the_report_says_what_became_of_every_file(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [row(1), row(2, n=1), row(3)])
    write_jsonl(tmp_path / "b.jsonl", [chat("p", "act", "seen", "done"), chat("q", "act", "seen", reward=0.0)])
    write_jsonl(tmp_path / "c.jsonl", [{"what": 1, "else": 2}] * 2)
    write_jsonl(tmp_path / "p.jsonl", [{"id": f"r{k}", "problem": f"problem {k}", "answer": "4"} for k in range(5)])
    (tmp_path / "notes.txt").write_text("hello")
    report = prepare(Source(tmp_path, set_aside=(tmp_path / "p.jsonl",)), tmp_path / "out", ALL)
    lines = [line.replace(f"{tmp_path}/", "").strip() for line in report.lines()]
    assert lines[lines.index("a.jsonl: 3 × numbered-solutions: 2 kept, 1 left out") :][:5] == [
        "a.jsonl: 3 × numbered-solutions: 2 kept, 1 left out",
        "b.jsonl: 2 × messages: 1 kept, 1 left out",
        "c.jsonl: 2 × no known format (`what`, `else`): skipped",
        "notes.txt: not one of .jsonl, .json, .traj, .parquet, .arrow: skipped",
        "p.jsonl: given for another purpose: skipped",
    ]
    facts = json.loads((tmp_path / "out/report.json").read_text())
    assert facts["outcomes"][f"{tmp_path}/a.jsonl"] == {"kept": 2, "left out": 1}
    assert facts["files"][f"{tmp_path}/c.jsonl"] == {"no known format (`what`, `else`)": 2}


def test_of_many_files_those_that_lost_most_are_shown(tmp_path):
    for k in range(30):
        write_jsonl(tmp_path / f"{k:02}.jsonl", [row(k, n=1 if k == 29 else 2)])
    lines = prepare(Source(tmp_path), None, ALL).lines()
    assert sum("numbered-solutions:" in line for line in lines) == 20
    assert any("29.jsonl: 1 × numbered-solutions: 1 left out" in line for line in lines)
    assert "  … and 10 more files (report.json)" in lines


@pytest.mark.parametrize("n_known", [2, 3])
def test_a_folder_of_mostly_unknown_rows_is_refused(tmp_path, n_known):
    write_jsonl(tmp_path / "a.jsonl", [row(k) for k in range(n_known)])
    write_jsonl(tmp_path / "b.jsonl", [{"what": k} for k in range(3)])
    if n_known == 3:
        assert prepare(Source(tmp_path), None, ALL).kept == 3
        return
    with pytest.raises(UserError, match=r"3 of 5 rows are in no known format \(b.jsonl: 3 × .*`what`") as error:
        prepare(Source(tmp_path), tmp_path / "out", ALL)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_of_mostly_unknown_rows_is_refused_also_where_damage_is_skipped(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [row(1), {"what": 1}, {"what": 2}])
    with pytest.raises(UserError, match="2 of 3 rows are in no known format"):
        prepare(Source(tmp_path / "a.jsonl", on_error="skip"), None, ALL)


# --- damage -----------------------------------------------------------------------------------------


def test_a_damaged_line_stops_with_its_place_or_is_skipped_and_counted(tmp_path):
    good = [json.dumps(row(i)).encode() for i in range(4)]
    bad = [b'{"id": "r', b"\x00" * 40, b'{"a": "\xff"}', b"[" * 100_000, b"7", b'{"x": 1}', b'{"problem": "\\ud800"}']
    lines = [line for pair in zip(good, bad[:4], strict=True) for line in pair] + bad[4:]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"a\.jsonl:2: broken JSON"):
        read(path)
    items, _ = read(path, on_error="skip")
    assert kept(items) == ["r0", "r1", "r2", "r3"]
    dropped = [item.detail.removeprefix(str(tmp_path)) for item in items if isinstance(item, Dropped)]
    assert [detail.split(":")[1] for detail in dropped] == ["2", "4", "6", "8", "9", "10", "11"]
    report = prepare(Source(path, on_error="skip"), tmp_path / "out", ALL)
    assert (report.read, report.kept, report.dropped) == (11, 4, {"unreadable": 7})
    assert len((tmp_path / "out/dropped.jsonl").read_text().splitlines()) == 7


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [row(1)])
    with path.open("ab") as file:
        file.truncate(file.tell() + MAX_BYTES + 1)  # sparse: takes no disk
    with path.open("ab") as file:
        file.write(b"\n" + json.dumps(row(2)).encode())
    with pytest.raises(UserError, match=r"a\.jsonl:2: a line of over 512 MiB"):
        read(path)
    assert kept(read(path, on_error="skip")[0]) == ["r1", "r2"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.parquet", "a.arrow", "a.json"])
def test_a_file_cut_off_in_the_middle_is_one_line(tmp_path, name):
    (tmp_path / "whole").mkdir()
    write_everywhere(tmp_path / "whole", [row(i) for i in range(200)])
    whole = next(path for path in sorted((tmp_path / "whole").iterdir()) if path.name[1:] == name[1:])
    (tmp_path / name).write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_what_is_no_file_of_rows_is_one_line(tmp_path):
    (tmp_path / "d.jsonl").mkdir()
    for path, message in {
        tmp_path / "d.jsonl": "no .*file in this folder",
        tmp_path / "none.jsonl": "no such file",
        tmp_path: "no .*file in this folder",
    }.items():
        with pytest.raises(UserError, match=message):
            read(path)


JSON_BYTES = [b"[", b"{", b'"', b"\\", b"null", b"\n"]
BYTES = {path.name: path.read_bytes() for path in sorted(SAMPLES.iterdir())}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(BYTES)), st.data())
def test_any_change_of_bytes_reads_or_says_what_is_wrong(tmp_path_factory, name, data):
    content = bytearray(BYTES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 50)))
        content[start:end] = data.draw(st.binary(max_size=8) | st.sampled_from(JSON_BYTES))
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)
    outcome = outcome_of(path)
    if isinstance(outcome, UserError):
        assert "\n" not in str(outcome)
    else:
        assert outcome == read(path, on_error="skip")[0]


def outcome_of(path):
    try:
        return read(path)[0]
    except UserError as error:
        return error


# --- the real files ---------------------------------------------------------------------------------


@pytest.fixture
def real_files():
    if not SHARED.exists():
        pytest.skip("the real trajectories (../shared/data) are not here")
    return SHARED


def test_the_real_agent_files_all_read(real_files, tmp_path):
    report = prepare(Source(real_files / "swe_trajectories"), tmp_path / "out", ALL)
    assert report.found.formats == {"mini-swe-agent": 4, "swe-agent": 4, "swe-smith": 3}
    assert (report.read, report.kept, report.found.skipped_files) == (11, 11, [])
    smith = real_files / "swe_trajectories/swe-smith/ft_xml_example.jsonl"
    turns = sum(
        message["role"] == "assistant"
        for line in smith.read_text().splitlines()
        for message in json.loads(line)["messages"]
    )
    items, _ = read(smith)
    assert sum(len(item.steps) for item in items) == turns == 103


def test_no_step_of_a_real_run_is_repeated_or_lost(real_files):
    for path in sorted((real_files / "swe_trajectories").rglob("*.traj")):
        (trajectory,), _ = read(path)
        steps = json.loads(path.read_text()).get("trajectory")
        if steps:
            assert [step.action for step in trajectory.steps] == [step["action"].strip() for step in steps]
