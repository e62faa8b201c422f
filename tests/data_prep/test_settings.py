from __future__ import annotations

import pytest

from data_prep.image_pairs import main


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
