"""Small files that would take gigabytes or hours: each is refused in one line, in bounded time and memory."""

import gzip
import shutil
import time

import pytest

from srl.chat.tokenizer import load_chat
from srl.chat.trial import WALL_SECONDS, check_template
from srl.errors import UserError
from srl.files import read_rows, rows
from srl.runs.recipe import read_recipe

TOML_BOMBS = {
    "brackets": "a = " + "[" * 40_000 + "]" * 40_000,
    "inline tables": "a = " + "{a=" * 15_000 + "1" + "}" * 15_000,
    "a key of many parts": "a" + ".a" * 45_000 + " = 1",
    "a quoted key of many parts": '"a" . ' * 15_000 + "a = 1",
    "tables in tables": "".join(f"[{'a.' * 40}b{index}]\n" for index in range(900)),
    "an integer of many digits": "seed = " + "9" * 90_000,
    "a long name": "stage = '" + "x" * 90_000 + "'",
    "nested values": "seed = " + "[" * 300 + "]" * 300,
    "too large": "a = 1\n" * 100_000,
    "no text": "\udcff\udcfe",
}


@pytest.mark.parametrize("name", TOML_BOMBS)
def test_a_recipe_that_is_a_bomb_is_one_short_line_at_once(tmp_path, name):
    path = tmp_path / "r.toml"
    path.write_bytes(TOML_BOMBS[name].encode(errors="surrogateescape"))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"r\.toml: ") as found:
        read_recipe(path)
    assert time.monotonic() - began < 5
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 600


def test_dots_in_texts_are_no_key_of_many_parts(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('stage = "' + "1.2.3. and so on ... a.b.c." * 20 + '"')
    with pytest.raises(UserError, match="`stage`: Input should be"):
        read_recipe(path)


GZ_BOMBS = {
    "one line": b" " * (1 << 20),
    "rows": (b'{"a": "' + b"x" * 10_000 + b'"}\n') * 100,
    "empty lines": b"\n" * (1 << 20),
}


@pytest.mark.parametrize("name", GZ_BOMBS)
def test_what_unpacks_to_more_than_a_limit_is_refused(tmp_path, monkeypatch, name):
    """The limits are lowered so that the test is quick; what is counted is bytes, whatever the lines are."""
    monkeypatch.setattr(rows, "MAX_UNPACKED", 20 << 20)
    monkeypatch.setattr(rows, "MAX_BYTES", 4 << 20)
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", 9) as file:
        for _ in range(64):
            file.write(GZ_BOMBS[name])
    read = []
    with pytest.raises(UserError, match=r"a\.jsonl\.gz:\d+: ") as found:
        read.extend(len(row.value["a"]) for row in read_rows(path))
    assert sum(read) < 21 << 20
    assert "\n" not in str(found.value)


def test_what_packs_well_and_is_small_still_reads(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b'{"a": 1}\n\n\n' * 100_000)
    assert sum(1 for _ in read_rows(tmp_path / "a.jsonl.gz")) == 100_000


def test_millions_of_empty_lines_are_not_gone_through(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"\n" * 30_000_000)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"a\.jsonl:1000002: over 1,000,000 empty lines in a row"):
        list(read_rows(path))
    assert time.monotonic() - began < 5


TEMPLATE_BOMBS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a text of gigabytes": "{{ 'a' * 10 ** 10 }}",
    "a text of megabytes": "{{ 'a' * 10 ** 7 }}",
    "a loop behind a switch": "{% if enable_thinking %}{{ 9 ** (9 ** 9) }}{% endif %}",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("loop" not in name)) for name in TEMPLATE_BOMBS]
)
def test_a_chat_template_that_is_a_bomb_is_one_line(tiny_model, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    with (folder / "chat_template.jinja").open("a") as template:
        template.write(TEMPLATE_BOMBS[name])
    began = time.monotonic()
    with pytest.raises(UserError, match=f"{folder}: its chat template (takes over|writes)") as found:
        load_chat(str(folder))
    assert time.monotonic() - began < WALL_SECONDS + 10
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_a_template_that_cannot_be_rendered_is_left_to_who_loads_it():
    check_template("{% for %}", "model")
    check_template("{{ raise_exception('no system turn') }}", "model")
    check_template("{{ 1 / 0 }}", "model")
