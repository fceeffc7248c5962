from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import pytest
from data_folders import write_folder

from benchmark.cli import main
from benchmark.data.catalogue import available, find
from benchmark.data.recipe import FolderOptions
from methods.errors import UserError


def test_shipped_recipes_are_listed():
    names = available(Path())
    paper = {"sci", "pantry", "tools", "toys", "ins"}
    assert paper | {"beauty", "sports", "games", "arts", "office", "ml-1m", "scientific", "tiny"} <= set(
        names
    )
    assert len([name for name in names if name.startswith("amazon-2023-")]) == 28


def test_every_shipped_recipe_has_a_summary_and_a_card(tmp_path):
    root = Path(__file__).parents[1] / "datasets"
    for name, listed in available(tmp_path).items():
        assert listed.summary and not listed.summary.startswith("unusable") and listed.edition
        folder = root / name.removesuffix(f"-{listed.category}")
        assert (folder / "README.md").read_text(encoding="utf-8").startswith("# ")


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


@pytest.mark.parametrize("name", ["scientific", "games", "tools", "tiny"])
def test_a_folder_named_like_a_recipe_is_read_as_the_plain_folder_it_is(tmp_path, name):
    recipe = find(str(write_folder(tmp_path / name)))
    other = find(str(write_folder(tmp_path / "other")))
    assert recipe.options() == other.options() and recipe.expected is None and not recipe.settings
    assert f"--recipe {name}" in recipe.notes[0] and not other.notes


@pytest.mark.parametrize(
    "category",
    ["../../x", "/x", "a/b", "a\\\\b", "..", ".x", "x.", "a b", "a\\nb", "a:b", "a\\u0000b", "", "x" * 101],
)
def test_a_category_that_is_no_plain_name_is_refused(tmp_path, monkeypatch, category):
    text = f'categories = ["Beauty", "{category}"]\nformat = "synthetic"\nuntouched = "keep"'
    write_folder(tmp_path / "datasets" / "evil", recipe=text)
    monkeypatch.chdir(tmp_path)
    for name in ("evil", "evil-Beauty", f"evil-{category}".encode().decode("unicode_escape")):
        with pytest.raises(UserError, match=r"evil/recipe\.toml: categories\.1 = '.* a plain name") as caught:
            find(name)
        assert "\n" not in str(caught.value)
    assert available(tmp_path)["evil"].summary.startswith("unusable: ")


def test_a_name_like_a_recipe_without_its_files_is_unknown(monkeypatch):
    monkeypatch.delenv("ADAPTREC_DATA", raising=False)
    with pytest.raises(UserError, match=r"unknown dataset 'scientific-2'\. Did you mean 'scientific'"):
        find("scientific-2")


@pytest.mark.parametrize("name", ["x" * 5000, "a/" + "x" * 5000, "a\0b", "~nobody-of-this-name/x", "\0"])
def test_names_that_no_file_system_has_are_one_line(name):
    with pytest.raises(UserError, match=r"there is no dataset folder '|unknown dataset '") as caught:
        find(name)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "has tables or lists nested too deeply"),
        (f"core = {'9' * 5000}", "is not valid TOML"),
        (
            f"core = {2**31}",
            "core = 2147483648 is not valid: input should be less than or equal to 2147483647",
        ),
        (f"recent = {10**30}", "recent = 1000.* is not valid"),
        (f"max_text = {10**30}", "max_text = 1000.* is not valid"),
        (f"[expected]\nusers = {10**30}", "expected.users = 1000.* is not valid"),
        ("valid_share = inf", "valid_share = inf is not valid"),
        ("test_share = nan", "test_share = nan is not valid"),
        ('folder = "a\\u0000b"', "folder = 'a.x00b' is not valid"),
        ('separator = "ab"', "separator = 'ab' is not valid: it must be one character"),
        ("separator = '\"'", "separator = '\"' is not valid: it must be one character"),
        ("columns = 3", "columns = 3 is not valid: it must be a table"),
        ("[columns]\nuser_id = 3", "columns.user_id = 3 is not valid: it must be text in quotes"),
        ('[columns]\nuser_id = "a"\nitem_id = "a"', "the column 'a' cannot be both"),
    ],
)
def test_values_that_nothing_can_hold_are_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        find(str(write_folder(tmp_path / "own", recipe=text)))
    assert "\n" not in str(caught.value)


def test_a_folder_whose_name_is_too_long_is_not_there(tmp_path, monkeypatch):
    write_folder(tmp_path / "datasets" / "own", recipe=f'folder = "{"x" * 5000}"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no folder .*xxx"):
        find("own")
    assert available(tmp_path)["own"].state == "not here"


@pytest.mark.parametrize("url", ["https://x.org/..", "https://x.org/a\\u0000b", "https://x.org/a\\nb", ""])
def test_a_url_that_does_not_end_in_the_name_of_a_file_is_refused(tmp_path, url):
    text = f'text_fields = ["title"]\n[download]\nformat = "movielens"\nfiles = {{ archive = ["{url}"] }}'
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "recipe.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="does not end in the name of a file"):
        find(str(tmp_path / "own"))


def test_a_folder_takes_the_options_of_the_recipe_that_is_named(tmp_path):
    folder = write_folder(tmp_path / "mine", recipe="core = 7")
    recipe = find(str(folder), FolderOptions(recipe="scientific"))
    assert (recipe.name, recipe.source, recipe.core) == ("mine", folder, 5)
    assert recipe.expected == {"users": 8442, "items": 4385, "interactions": 59427}
    assert "recipe 'scientific' in place of" in recipe.notes[0] and recipe.given == ("--recipe=scientific",)
    with pytest.raises(UserError, match=r"unknown recipe 'scientifc'\. Did you mean 'scientific'\?"):
        find(str(folder), FolderOptions(recipe="scientifc"))
    with pytest.raises(UserError, match="--recipe tiny: that recipe generates its data"):
        find(str(folder), FolderOptions(recipe="tiny"))
    with pytest.raises(UserError, match=r"--recipe=games is for a folder, and 'tiny' is a recipe"):
        find("tiny", FolderOptions(recipe="games"))


def test_columns_and_separator_of_the_command_line_come_before_the_recipe(tmp_path):
    text = 'separator = ";"\n[columns]\nuser_id = "a"\ntimestamp = "t"'
    folder = write_folder(tmp_path / "own", recipe=text)
    plain = find(str(folder))
    assert plain.separator == ";" and plain.columns == (("timestamp", "t"), ("user_id", "a"))
    assert plain.options()["columns"] == {"timestamp": "t", "user_id": "a"}
    other = find(str(folder), FolderOptions(columns=(("user_id", "b"),), separator="|"))
    assert other.separator == "|" and other.columns == (("timestamp", "t"), ("user_id", "b"))
    with pytest.raises(UserError, match="separator = ';;' is not valid: it must be one character"):
        find(str(folder), FolderOptions(separator=";;"))
    with pytest.raises(UserError, match=r"unknown name in the columns .*'usr_id'\. Did you mean 'user_id'"):
        find(str(folder), FolderOptions(columns=(("usr_id", "b"),)))


def test_options_without_effect_leave_the_key_as_it_was(tmp_path):
    assert not {"columns", "separator"} & set(find(str(write_folder(tmp_path / "own"))).options())


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
        ('core = "5"', r"recipe\.toml: core = '5' is not valid: input should be a valid integer"),
        ("core = true", "core = True is not valid"),
        ("recent = 2", "recent = 2 is not valid: input should be greater than or equal to 3"),
        ('no_text = "kep"', r"unknown value of no_text in .*: 'kep'\. Did you mean 'keep'\?"),
        ('text_fields = "title"', "text_fields = 'title' is not valid: it must be a list"),
        ("test_share = 1.5", "test_share = 1.5 is not valid: input should be less than 1"),
        ("test_share = 0.6\nvalid_share = 0.4", "must stay below 1"),
        ('target = "last"', 'target = "last" is for split = "temporal"; this is "leave-one-out"'),
        (
            'split = "temporal"\ntarget = "succesive"',
            "unknown value of target in .*: 'succesive'. Did you mean 'successive'",
        ),
        ('target = "successive"', 'target = "successive" is for split = "temporal"'),
        ('tie_order = "rondom"', "unknown value of tie_order in .*Did you mean 'random'"),
        ("seed = 3", "seed = 3 has no effect; set target or tie_order"),
        ('tie_order = "random"\nseed = -1', "seed = -1 is not valid"),
        ("[expected]\nuser = 3", r"unknown key of \[expected\].*'user'\. Did you mean 'users'\?"),
        ("[expected]\nusers = 0", "expected.users = 0 is not valid"),
        ("[settings]\nfair = 3", "settings.fair = 3 is not valid: it must be a table"),
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
    with pytest.raises(UserError, match="holds no data files: it needs interactions and items"):
        find(str(tmp_path))


def test_folder_with_two_formats(tmp_path):
    folder = write_folder(tmp_path / "two")
    (folder / "items.csv").write_text("item_id,title\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"several formats \(tsv, csv\); put format"):
        find(str(folder))


DOWNLOAD = """
text_fields = ["title"]
[download]
format = "amazon-2018"
clean = "html"
[download.files]
interactions = ["https://a.example/X.csv", "file:///b/X.csv"]
items = ["meta_X.json.gz"]
"""


@pytest.fixture
def no_data(monkeypatch):
    for name in ("ADAPTREC_DATA", "ADAPTREC_DATA_MIRROR"):
        monkeypatch.delenv(name, raising=False)


def write_recipe(folder: Path, text: str) -> str:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return str(folder)


def test_a_recipe_of_a_publishers_files_names_them_and_fetches_nothing(tmp_path, no_data):
    recipe = find(write_recipe(tmp_path / "own", DOWNLOAD))
    assert recipe.files == {
        "interactions": ("https://a.example/X.csv", "file:///b/X.csv"),
        "items": ("meta_X.json.gz",),
    }
    assert (recipe.format, recipe.clean, recipe.text_fields) == ("amazon-2018", "html", ("title",))
    assert recipe.notes == ("the publisher's files (no edition named): X.csv, meta_X.json.gz",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"amazon-2018"', '"tsv"', r"\[download\] needs format = one of amazon-2014.*, not 'tsv'"),
        ("items =", "item =", r"\[download.files\] must have interactions and items"),
        ('["meta_X.json.gz"]', '"meta_X.json.gz"', r"download\.files\.items must be a list of URLs"),
        ('["meta_X.json.gz"]', "[]", r"download\.files\.items must be a list of URLs"),
        ("file://", "ftp://", r"unknown scheme of a URL in .*: 'ftp'.* Allowed: https, http, hf, file"),
        (
            'text_fields = ["title"]',
            "",
            r'amazon-2018 needs text_fields, such as \["title", "category", "brand"',
        ),
        ('clean = "html"', 'clean = "htm"', r"unknown value of clean in .*: 'htm'\. Did you mean 'html'\?"),
        ('clean = "html"', 'cleen = "html"', r"unknown key in .*: 'cleen'\. Did you mean 'clean'\?"),
        ("[download]", "[downloads]", r"unknown key in .*: 'downloads'\. Did you mean 'download'\?"),
        (
            "text_fields",
            'categories = ["A"]\ntext_fields',
            r"one dataset a category; name one, such as own-A",
        ),
    ],
)
def test_faults_in_a_download_table(tmp_path, no_data, old, new, message):
    assert old in DOWNLOAD
    with pytest.raises(UserError, match=message) as caught:
        find(write_recipe(tmp_path / "own", DOWNLOAD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_a_publishers_format_needs_a_download_table(tmp_path, no_data):
    with pytest.raises(UserError, match=r'"movielens" needs a table \[download\]'):
        find(write_recipe(tmp_path / "own", 'format = "movielens"'))


def test_prepared_files_are_read_before_a_publishers(tmp_path, monkeypatch, no_data):
    official = find("beauty")
    assert official.format == "amazon-2014" and official.clean == "html" and official.source is None
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path))
    assert find("beauty").format == "amazon-2014"
    write_folder(tmp_path / "beauty")
    prepared = find("beauty")
    assert prepared.format == "tsv" and prepared.source == tmp_path / "beauty" and not prepared.files
    assert "clean" not in prepared.options() and prepared.expected == official.expected
    named = find(str(tmp_path / "beauty"), FolderOptions(recipe="beauty"))
    assert named.options() == prepared.options()


def test_new_options_at_their_default_name_no_prepared_form_anew(tmp_path):
    plain = find(str(write_folder(tmp_path / "own"))).options()
    assert not {"duplicate_reviews", "clean", "negative_times", "mixed_times", "files"} & set(plain)
    chosen = find(str(write_folder(tmp_path / "two", recipe='duplicate_reviews = "drop"'))).options()
    assert chosen["duplicate_reviews"] == "drop"


def test_a_family_is_a_dataset_a_category(tmp_path, no_data):
    recipe = find("amazon-2023-All_Beauty")
    assert recipe.name == "amazon-2023-All_Beauty" and recipe.summary.startswith("All_Beauty,")
    assert recipe.files["items"][0].endswith("/raw/meta_categories/meta_All_Beauty.jsonl.gz")
    assert all("{" not in url for urls in recipe.files.values() for url in urls)
    with pytest.raises(UserError, match=r"'amazon-2023-all_beuty'\. Did you mean 'amazon-2023-All_Beauty'\?"):
        find("amazon-2023-all_beuty")
    with pytest.raises(UserError, match=r"Allowed: amazon-2023-<category>, arts, "):
        find("tinny")


def test_a_family_is_one_line_of_the_listing_save_what_is_here(tmp_path, monkeypatch, capsys, no_data):
    def listed() -> list[str]:
        assert main(["list", "datasets"]) == 0
        return capsys.readouterr().out.splitlines()

    first, *below = listed()
    assert re.match(r"amazon-2023-<category> +Amazon 2023 +to fetch +<category>, the publisher's", first)
    named = list(takewhile(lambda line: line.startswith(" "), below))
    assert not any(line.startswith("amazon") for line in below) and max(map(len, named)) < 120
    assert " ".join(named).count(",") == 28 - 1 and " Gift_Cards, " in " ".join(named)
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path))
    (tmp_path / "amazon-2023-Gift_Cards").mkdir()
    for name in ("Gift_Cards.csv.gz", "meta_Gift_Cards.jsonl.gz"):
        (tmp_path / "amazon-2023-Gift_Cards" / name).touch()
    made = [line for line in listed() if "Gift_Cards" in line]
    assert [line.split()[0] for line in made] == ["amazon-2023-Gift_Cards"] and " here " in made[0]


def test_the_listing_states_whether_the_files_are_here(tmp_path, monkeypatch, no_data):
    def states() -> dict[str, str]:
        return {name: listed.state for name, listed in available(tmp_path / "cache").items()}

    assert [states()[name] for name in ("tiny", "sci", "beauty", "scientific")] == [
        "generated", "to fetch", "to fetch", "not here",
    ]  # fmt: skip
    monkeypatch.setenv("ADAPTREC_DATA", str(tmp_path / "data"))
    for urls in find("sci").files.values():
        path = tmp_path / "data" / "sci" / urls[0].rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_folder(tmp_path / "data" / "scientific")
    assert [states()[name] for name in ("sci", "beauty", "scientific")] == ["here", "to fetch", "here"]
    assert available(tmp_path)["sci"].edition == "Amazon 2018"
