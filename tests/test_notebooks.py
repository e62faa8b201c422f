"""The notebooks run from their first cell to their last, and are committed with light outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "notebooks"
MOST_BYTES = 300_000
PARAMETERS = "parameters"

# What is put behind the cell of settings to have a notebook run in seconds, and how many figures it draws.
SMALL = {
    "01_segment_and_look": ('IMAGE = ""; DRAWS = 2; STEPS = 2', 5),
    "02_train_on_your_own_folder": (
        "PHANTOMS = 6; EPOCHS = 1; "
        'NETWORK = {"channels": [8, 8, 8], "num_res_blocks": 0, "num_heads": 2, "time_dim": 8}',
        3,
    ),
    # The study that comes with the repository is small enough.
    "03_read_a_comparison": ("", 7),
}
# What the last cell of code says or leaves behind.
END = {
    "01_segment_and_look": r"segmented_phantom_000\.nii\.gz",
    "02_train_on_your_own_folder": r"segmented_phantom_000\.nii\.gz",
    "03_read_a_comparison": r"\(best\): recycling, Dice 0\.\d{3}",
}


def _read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in _code(notebook) for output in cell.outputs)


def _text(notebook: Any) -> str:
    return "".join(output.get("text", "") for cell in _code(notebook) for output in cell.outputs)


def _complaints(notebook: Any) -> list[Any]:
    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    return [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_on_small_settings(name, tmp_path, monkeypatch):
    # What its kernel writes: results into temporary folders, and the history of IPython.
    for variable in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    settings, pictures = SMALL[name]
    notebook = _read(name)
    [place] = [k for k, cell in enumerate(notebook.cells) if PARAMETERS in cell.metadata.get("tags", ())]
    for cell in _code(notebook):
        cell.outputs, cell.execution_count = [], None
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    assert _pictures(notebook) == pictures
    assert not _complaints(notebook)
    last = notebook.cells[-1] if notebook.cells[-1].cell_type == "code" else notebook.cells[-2]
    assert re.search(END[name], _text(nbformat.v4.new_notebook(cells=[last])))
    if "segmented" in END[name]:
        assert list(tmp_path.rglob("segmented_phantom_000.nii.gz"))


def test_every_notebook_is_tried():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_committed_and_light(name):
    notebook = _read(name)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in _code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run all cells in their order, from a fresh kernel"
    assert _pictures(notebook) == SMALL[name][1]
    assert not _complaints(notebook)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", SMALL)
def test_outputs_name_no_place_of_the_machine_they_were_made_on(name):
    notebook = _read(name)
    shown = "".join(
        str(output) for cell in _code(notebook) for output in cell.outputs if "image/png" not in str(output)
    )
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/\w+", shown)


def test_training_takes_ten_cells():
    assert len(_code(_read("02_train_on_your_own_folder"))) == 10


def test_a_study_is_read_in_ten_cells():
    assert len(_code(_read("03_read_a_comparison"))) == 10


@pytest.mark.parametrize("name", ["01_segment_and_look", "03_read_a_comparison"])
def test_the_picture_of_a_patient_comes_with_its_licence(name):
    texts = [cell.source for cell in _read(name).cells if cell.cell_type == "markdown"]
    assert "Medical Segmentation Decathlon" in texts[-1] and "CC BY-SA 4.0" in texts[-1]
