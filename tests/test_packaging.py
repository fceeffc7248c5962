import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_recipe_is_installed_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = project["tool"]["setuptools"]["data-files"]
    for recipe in (ROOT / "datasets").glob("*/recipe.toml"):
        files = installed[f"share/adaptrec/datasets/{recipe.parent.name}"]
        assert f"datasets/{recipe.parent.name}/recipe.toml" in files
        assert all((ROOT / name).is_file() for name in files)
