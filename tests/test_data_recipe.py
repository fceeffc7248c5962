from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from data_folders import write_folder

from benchmark.data.recipe import available, find
from methods.errors import UserError


def test_shipped_recipes_are_listed_without_heavy_imports():
    code = (
        "import sys; from pathlib import Path; from benchmark.data.recipe import available;"
        "names = available(Path());"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'datasets', 'pydantic'} & set(sys.modules);"
        "print(sorted(names), sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['beauty', 'instruments', 'scientific', 'tiny', 'tiny-shuffled'] []"


def test_every_shipped_recipe_has_a_summary_and_a_card(tmp_path):
    root = Path(__file__).parents[1] / "datasets"
    for name, listed in available(tmp_path).items():
        assert listed.summary and not listed.summary.startswith("unusable")
        assert (root / name / "README.md").read_text(encoding="utf-8").startswith("# ")


def test_no_python_below_datasets():
    assert not list((Path(__file__).parents[1] / "datasets").rglob("*.py"))


def test_unknown_name_gives_the_nearest():
    with pytest.raises(
        UserError, match=r"unknown dataset 'tinny'\. Did you mean 'tiny'\? Allowed: .*scientific"
    ):
        find("tinny")


def test_missing_folder():
    with pytest.raises(UserError, match="there is no dataset folder '/nowhere/at/all'"):
        find("/nowhere/at/all")


def test_a_file_is_not_a_folder(tmp_path):
    path = write_folder(tmp_path / "own") / "items.tsv"
    with pytest.raises(UserError, match="is a file; give the folder"):
        find(str(path))


def test_raw_files_lie_below_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("ADAPTREC_DATA", raising=False)
    with pytest.raises(UserError, match="set ADAPTREC_DATA to the folder that holds 'scientific'"):
        find("scientific")
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no folder .*scientific"):
        find("scientific")
    write_folder(tmp_path / "scientific")
    recipe = find("scientific")
    assert recipe.source == tmp_path / "scientific"
    assert recipe.format == "tsv" and recipe.core == 5 and recipe.text_fields == ("text",)
    assert recipe.expected == {"users": 8442, "items": 4385, "interactions": 59427}


def test_folder_named_like_a_recipe_takes_its_options_and_says_so(tmp_path):
    recipe = find(str(write_folder(tmp_path / "scientific")))
    assert recipe.core == 5 and "recipe 'scientific'" in recipe.notes[0]


def test_folder_named_like_a_generated_set_keeps_its_own_files(tmp_path):
    recipe = find(str(write_folder(tmp_path / "tiny")))
    assert recipe.format == "tsv" and recipe.core == 0 and not recipe.notes


def test_folder_with_its_own_recipe(tmp_path):
    recipe = find(
        str(write_folder(tmp_path / "own", recipe='summary = "mine"\ncore = 2\n[settings.fair]\nepochs = 3'))
    )
    assert (recipe.name, recipe.summary, recipe.core) == ("own", "mine", 2)
    assert recipe.settings == {"fair": {"epochs": 3}}


def test_recipes_of_the_working_folder_come_first(tmp_path, monkeypatch):
    write_folder(tmp_path / "datasets" / "mine", recipe='summary = "mine"')
    write_folder(tmp_path / "datasets" / "broken", recipe="core = ")
    monkeypatch.chdir(tmp_path)
    assert find("mine").source == tmp_path / "datasets" / "mine"
    listed = available(tmp_path)
    assert listed["mine"].summary == "mine" and "tiny" in listed
    assert listed["broken"].summary.startswith("unusable: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cores = 5", r"unknown key in .*recipe\.toml: 'cores'\. Did you mean 'core'\?"),
        ('core = "5"', r"recipe\.toml: core = '5' is not valid; it must be a whole number of at least 0"),
        ("core = true", "core = True is not valid"),
        ("recent = 2", "recent = 2 is not valid; it must be a whole number of at least 3"),
        ('no_text = "kep"', r"unknown value of no_text in .*: 'kep'\. Did you mean 'keep'\?"),
        ('text_fields = "title"', "it must be a list of column names"),
        ("test_share = 1.5", "it must be a number between 0 and 1"),
        ("test_share = 0.6\nvalid_share = 0.4", "must stay below 1"),
        ("[expected]\nuser = 3", r"unknown key of \[expected\].*'user'\. Did you mean 'users'\?"),
        ("[expected]\nusers = 0", "expected.users = 0 is not valid"),
        ("[settings]\nfair = 3", "settings.fair must be a table"),
        ("summary = 3", "it must be text in quotes"),
        ('untouched = "keep"\ncore = 2', "contradicts core = 2"),
        ('format = "synthetic"', 'needs untouched = "keep"'),
        ("core = ", "is not valid TOML"),
    ],
)
def test_faults_in_a_recipe_are_one_line_with_the_file(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        find(str(write_folder(tmp_path / "own", recipe=text)))
    assert "\n" not in str(caught.value) and "recipe.toml" in str(caught.value)


def test_folder_without_data(tmp_path):
    with pytest.raises(UserError, match="holds no data files: wanted interactions and items"):
        find(str(tmp_path))


def test_folder_with_two_formats(tmp_path):
    folder = write_folder(tmp_path / "two")
    (folder / "items.csv").write_text("item_id,title\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"several formats \(tsv, csv\); put format"):
        find(str(folder))
