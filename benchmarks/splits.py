"""Results of `lens-ref evaluate` in one small file: python benchmarks/splits.py FILES --out FILE

The files are those that --json wrote, with the text and the faults of every prompt. Tables and
paired differences only need who passed: `rows` has one for each file, with the passes of every
skill as "0110...", in the order of the prompts."""

import argparse
import json
from pathlib import Path

from lens_ref.core.config import DataError
from lens_ref.core.files import atomic_write


def passes_by_skill(prompts: list) -> dict:
    "{skill: '0110...'} of the prompts of one result."
    out = {}
    for p in prompts:
        out[p["skill"]] = out.get(p["skill"], "") + str(int(p["passed"]))
    return out


def small_row(path) -> dict:
    "One result without its prompts."
    found = json.loads(Path(path).read_text("utf8"))
    if "prompts" not in found:
        raise DataError(f"{path}: has no prompts; write it with lens-ref evaluate --json")
    prompts = found.pop("prompts")
    return found | dict(score=found["overall"]["score"], passed=passes_by_skill(prompts))


def main():
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("files", nargs="+", help="JSON files of lens-ref evaluate")
    ask.add_argument("--out", required=True, help="JSON file of the rows")
    a = ask.parse_args()
    rows = [small_row(path) for path in a.files]
    with atomic_write(a.out) as tmp:
        Path(tmp).write_text(json.dumps(dict(rows=rows), indent=1), "utf8")


if __name__ == "__main__":
    main()
