"""Bad input: mutated rows are read or refused with our own errors; hostile texts take linear time."""

import json
from contextlib import suppress
from copy import deepcopy

import pytest
from format_files import FORMAT_OF, ORDER, REAL, REAL_FORMAT_OF, SAMPLES, rows, whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srl.data.formats import messages, mini_swe_agent, react, swe_agent, swe_smith
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Problem, StepInstance

FUZZED = [(FORMAT_OF[path.name], value) for path in sorted(SAMPLES.iterdir()) for value in rows(path)]
if REAL.is_dir():
    FUZZED += [
        (reader, value)
        for name, reader in REAL_FORMAT_OF.items()
        if (REAL / name).stat().st_size < 120_000
        for value in rows(REAL / name)[:2]
    ]


def deep():
    """Lists and objects in one another, deeper than Python's json writes them."""
    value = []
    for _ in range(500):
        value = {"a": [value]}
    return value


SCALARS = (None, True, 0, -1, 2.5, float("nan"), "", "x", "[", "{'a': {1}}", "<think>", "\ud800")
JUNK = st.sampled_from(SCALARS) | st.builds(deep) | st.builds(list) | st.builds(dict)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if len(path) < 9:
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            yield from places(inner, (*path, key))


def mutate(value, path, kind, junk):
    if not path:
        return junk
    *above, key = path
    parent = value
    for step in above:
        parent = parent[step]
    old = parent[key]
    if kind == "delete":
        del parent[key]
    elif kind == "truncate" and isinstance(old, str | list):
        parent[key] = old[: len(old) // 2]
    elif kind == "duplicate" and isinstance(old, list):
        parent[key] = old + old
    elif kind == "wrap":
        parent[key] = [old]
    elif kind == "text":
        with suppress(RecursionError):
            parent[key] = json.dumps(old)
    else:
        parent[key] = junk
    return value


def check_refusal(error):
    if isinstance(error, Unusable):
        assert error.reason in ("no action", "no problem", "a step is rated wrong", "nested too deeply")
    else:
        assert str(error).startswith("file:1")
        assert "\n" not in str(error)


@settings(max_examples=1200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.slow
def test_mutated_rows_are_read_or_refused(data):
    reader, original = data.draw(st.sampled_from(FUZZED), label="row")
    value = deepcopy(original)
    for _ in range(data.draw(st.integers(1, 3))):
        known = list(places(value))
        path = data.draw(st.sampled_from(known))
        kind = data.draw(st.sampled_from(["delete", "replace", "truncate", "duplicate", "wrap", "text"]))
        value = mutate(value, path, kind, data.draw(JUNK))
    for recogniser in ORDER:
        recogniser.recognise(value)
    try:
        record = whole(reader.read(Row("file:1", value), "t"))
    except (UserError, Unusable) as error:
        return check_refusal(error)
    if isinstance(record, StepInstance):
        assert record.expert_action.strip()
    elif not isinstance(record, Problem):
        assert record.problem.strip()
        assert all(step.action.strip() for step in record.steps)
        assert record.steps or record.answer


def said(*texts):
    roles = ["user", *["assistant", "user"] * len(texts)]
    return [{"role": role, "content": text} for role, text in zip(roles, ("u", *texts), strict=False)]


MANY = 200_000


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        (messages, said("<tool_call>" * MANY)),
        (messages, said("<tool_call>{</tool_call>" + "<tool_call>" * MANY)),
        (messages, said("<think>" * MANY)),
        (messages, said(" \n" * MANY + "x")),
        (messages, said("Thought: " * MANY)),
        (messages, said("Thought:\n" * MANY)),
        (swe_smith, said("<function=a>" * MANY)),
        (swe_smith, said("<function=a></parameter>" + " \n" * MANY)),
        (swe_smith, said("<function=a>\n" * MANY + "</parameter>" * MANY)),
        (mini_swe_agent, said("x```bash\n" * MANY)),
        (mini_swe_agent, said("```bash " + " \t" * MANY)),
        (swe_agent, {"history": [{"agent": "main", **message} for message in said("```a\n" * MANY)]}),
        (react, {"question": "q", "text": "Thought 1" * MANY}),
        (react, {"question": "q", "text": "Action: a\n" + " \t" * MANY + "\n" + "**" * MANY}),
    ],
)
def test_hostile_texts_take_linear_time(reader, value):
    # A pattern that looks for its end from every start would take minutes here.
    reader.recognise(value)
    with suppress(Unusable):
        reader.read(Row("w", value), "t")
