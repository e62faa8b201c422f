from __future__ import annotations

import pytest

from data_prep import hippocampus
from data_prep.image_pairs import main
from data_prep.settings import SplitSettings, VolumeSettings, available_cores, run_command, volume_parser
from medsegdiff.errors import SpecError


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--channels", "4"], "got channels=4; allowed are 1 (grey) and 3 (RGB)"),
        (["--size", "0"], "got size=0; allowed are 1 and more"),
        (["--folds", "1"], "got folds=1; allowed are 2 and more"),
        (["--channels", "3"], "got no sound pair and 8 misfits, for instance case_0: images/case_0.png: got a grey"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(source, tmp_path, capsys, option, message):
    assert main([str(source), "--output", str(tmp_path / "out"), *option]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def _settings_of(arguments):
    given = []

    def convert(source, output, *, settings):
        given.append(settings)
        raise KeyboardInterrupt

    code = run_command(
        convert, volume_parser("hippocampus", "help"), ["a", "--output", "b", *arguments], settings_type=VolumeSettings
    )
    return given[0], code


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], VolumeSettings(link=False, workers=available_cores(), folds=None, seed=0)),
        (["--link", "--workers", "3"], VolumeSettings(link=True, workers=3)),
        (["--copy", "--folds", "5", "--seed", "7"], VolumeSettings(folds=5, seed=7)),
    ],
)
def test_the_command_line_of_volumes(arguments, settings):
    assert _settings_of(arguments)[0] == settings


def test_an_interruption_is_one_line_and_the_code_of_shells(capsys):
    assert _settings_of([])[1] == 130
    assert capsys.readouterr().err == "interrupted: b was not made\n"


def test_volumes_need_a_worker_and_two_folds(tmp_path, capsys):
    with pytest.raises(SpecError, match="got folds=1; allowed are 2 and more"):
        SplitSettings(folds=1)
    assert hippocampus.main([str(tmp_path), "--output", str(tmp_path / "out"), "--workers", "0"]) == 2
    assert capsys.readouterr().err == "error: got workers=0; allowed are 1 and more; give one of these\n"
