"""The dashboard is one by the types that Grafana publishes for it: a compiler finds a field that is not known, a value
of another type or a number that is none of its choices. (A Grafana is in no registry of packages; Prometheus answers
the dashboard's queries in test_interop_prometheus.)"""
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.interop import PATH

BOARD = Path(__file__).parents[2] / "contrib/grafana/cdp.json"
TYPES, COMPILER = "@grafana/schema@13.2.3", "typescript@5"
WIDTH = 24
DECLARED = "import type {{ Dashboard, Panel }} from '@grafana/schema';\n" \
    "export const board: Omit<Dashboard, 'panels'> & {{ panels: Panel[] }} = {};\n"


def node(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=folder, env={**os.environ, "PATH": PATH}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.long
@pytest.mark.interop
def test_the_dashboard_has_the_types_of_grafana(tmp_path):
    if not shutil.which("npm", path=PATH):
        pytest.skip("needs npm, with a registry that it reaches")
    (tmp_path / "package.json").write_text('{"private": true}')
    got = node(tmp_path, "npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", TYPES, COMPILER)
    if got.returncode:
        pytest.skip(f"npm does not get {TYPES} and {COMPILER} here: {got.stderr[-300:]}")
    text = BOARD.read_text()
    wrong = {"unknown": text.replace('"gridPos"', '"gridPosition"', 1),
             "type": text.replace('"unit": "s"', '"unit": 5', 1),
             "choice": text.replace('"refresh": 2', '"refresh": 7', 1)}
    for name, board in {"right": text, **wrong}.items():
        assert name == "right" or board != text
        (tmp_path / f"{name}.ts").write_text(DECLARED.format(board))
    options = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext")
    said = node(tmp_path, "node_modules/.bin/tsc", *options, *(f"{name}.ts" for name in ("right", *wrong))).stdout
    assert {line.partition(".ts")[0] for line in said.splitlines() if ": error " in line} == set(wrong), said


def test_panels_have_places_of_their_own_and_what_they_show():
    panels = json.loads(BOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 10
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < WIDTH, panel["title"]
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs), panel["title"]
