"""Print the lowest versions that pyproject.toml allows, one requirement a line, as pip reads them.

Torch is left out: which build suits the machine, the caller knows."""

import pathlib
import re

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXTRAS = ("api", "filters", "logs", "rl")
# Not asked for by us, but newer ones than these know nothing of packages that old.
OF_THEIR_DAY = ("pyparsing<3.3",)  # matplotlib 3.8 uses names that 3.3 warns of


def lowest() -> list[str]:
    "`numpy>=1.26` as `numpy==1.26`, for what the package needs and for the extras that tests use."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(r for name in EXTRAS for r in extras[name])]
    return [re.sub(r">=([^,;\s]+)", r"==\1", r) for r in asked if not r.startswith("torch>")]


if __name__ == "__main__":
    print(*lowest(), *OF_THEIR_DAY, sep="\n")
