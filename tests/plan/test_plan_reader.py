"""params.yaml says one thing to Snakemake's reader, to DVC's and to ours."""

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import ROOT
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from pipeline.errors import UserError
from pipeline.plan.params import reader
from pipeline.plan.params.pages import pages
from pipeline.plan.params.reader import read


def refusal(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "params.yaml")


def leaves(value, at=()):
    """Every leaf by its path."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, below in items for k, v in leaves(below, (*at, key)).items()}
    return {at: (type(value).__name__, value)}


@pytest.mark.parametrize("loader", [yaml.SafeLoader, reader.LOADER], ids=["slow", "fast"])
def test_all_three_readers_agree_on_every_leaf(monkeypatch, loader):
    monkeypatch.setattr(reader, "LOADER", loader)
    ours = leaves(read(ROOT / "params.yaml"))
    assert len(ours) > 300
    dvcs, snakemakes = {}, {}
    for path in map(str, (ROOT / "params.yaml", *pages(ROOT / "params.yaml"))):
        dvcs |= leaves(load_yaml(path))
        update_config(snakemakes, load_configfile(path))
    assert dvcs == ours
    merged = leaves(snakemakes)
    assert {k: ("dict", {}) if v[1] == {} else v for k, v in merged.items()} == ours


ODD = "on|off|yes|no|y|n|true|True|null|NULL|~|.inf|.nan|010|0o7|08|1e3|1e-4|1.5e4|1.5e+4|1_000|"
ODD += "1:30|0x1f|0b1|2020-01-01|=|<<|8/255|-1|+1|.5|5.|-_|0.1|-0.0|1.0e-4|e5|1e|.|-|0/0|a:b|a#b"
SCALARS = st.one_of(
    st.text("0123456789_.eE+-:xXoOabnfyst~=<", max_size=7),
    st.sampled_from(ODD.split("|")),
    st.integers().map(str),
    st.floats(allow_nan=False).map(str),
)


@settings(max_examples=300, deadline=None)
@given(SCALARS)
def test_a_value_we_accept_is_the_same_to_all(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "scalar.yaml"
    path.write_text(f"a: {text}\nb: [{text}]\n")
    try:
        ours = read(path)
    except UserError:
        return
    assert leaves(load_yaml(str(path))) == leaves(ours) == leaves(load_configfile(str(path)))


@pytest.mark.parametrize("text", ["1e-4", "1.5e4", "010", "08", "0o7", "0x1F", "1_000", "1:30"])
def test_a_number_that_tools_read_differently_is_refused(tmp_path, text):
    found = refusal(tmp_path, f"a: 1\nb: {{c: [{text}]}}\n")
    assert found == (
        f"params.yaml:2: {text} is read differently by different tools: "
        "write 12, 0.0001, 8/255, true, false, none, or quote a word"
    )


@pytest.mark.parametrize("text", ["on", "No", "yes", "True", ".5", "5.", "+.inf"])
def test_so_is_another_spelling_of_a_truth_or_a_number(tmp_path, text):
    assert refusal(tmp_path, f"a: {text}\n").startswith(
        f"params.yaml:1: {text} is read differently"
    )


@pytest.mark.parametrize("text", ["", "~", "null", "2020-01-01", "=", "!!binary aGk=", "!!set {a}"])
def test_what_is_no_number_truth_word_or_list_is_refused(tmp_path, text):
    assert " is no value here: write 12" in refusal(tmp_path, f"a: {text}\n")


def test_quoted_words_and_plain_values_are_read(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: '1e-4'\nb: \"on\"\nc: 8/255\nd: [1, -2.5, true]\ne: {f: ümlaut}\n")
    assert read(path) == {
        "a": "1e-4",
        "b": "on",
        "c": "8/255",
        "d": [1, -2.5, True],
        "e": {"f": "ümlaut"},
    }


@pytest.mark.parametrize(
    "text, problem",
    [
        ("a: 1\nb: &x 2\n", "params.yaml:2: anchors and aliases are not used here"),
        ("a: {x: 1}\nb:\n  <<: {y: 1}\n", "params.yaml:3: '<<' is no value here"),
        ("a: 1\nb: 2\na: 3\n", "params.yaml:3: key a stands twice in one mapping"),
        ("a: {3: 1}\n", "params.yaml:1: key 3 is not a word"),
        ('a: {"b\\n": 1}\n', "params.yaml:1: key 'b\\n' is not a word"),
        ("a: {[x]: 1}\n", "params.yaml:1: key ['x'] is not a word"),
        ("a: {on: 1}\n", "params.yaml:1: on is read differently"),
        ("a: [1\nb: 2\n", "params.yaml:2: not valid YAML: "),
        ("a: !!python/object:os.system x\n", "params.yaml:1: 'x' is no value here"),
        ("- a\n", "params.yaml: must be a mapping of sections"),
        ("", "params.yaml: must be a mapping of sections"),
        ("a: 1\n---\nb: 2\n", "params.yaml"),
        (b"a: \xff\n", "params.yaml: not valid YAML: invalid start byte"),
        ("a: \x00\n", "params.yaml: not valid YAML: "),
        ("a: " + "[" * 5000, "params.yaml:1: is nested in more than 50 levels"),
        ("a: 1\n#" + "a" * 1_000_000, "params.yaml: holds more than 1 MB, which is no plan"),
    ],
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, reader.LOADER], ids=["slow", "fast"])
def test_bad_text_is_refused_in_one_line(tmp_path, monkeypatch, text, problem, loader):
    """By PyYAML alone as well, where it was built without libyaml."""
    monkeypatch.setattr(reader, "LOADER", loader)
    found = refusal(tmp_path, text)
    assert found.startswith(problem) and "\n" not in found


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="missing; run from the folder that holds it"):
        read(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
