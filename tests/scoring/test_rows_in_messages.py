"""A value that is no number is named by its row in the file, however far behind."""

from types import SimpleNamespace

import pytest

from sparsense.data.columns import Column
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError
from sparsense.scoring.pieces import Piece
from sparsense.scoring.reading import read


@pytest.mark.parametrize("size", [1, 2, 10])
def test_the_row_of_a_bad_value_is_that_in_the_file(tmp_path, size):
    file = tmp_path / "x.csv"
    file.write_text("a\n1\n2\n3\nbad\n5\n")
    columns = Preprocessing(layout="ND", dtype="float32", columns=(Column("a"),))
    detector = SimpleNamespace(preprocessing=columns.to_dict(), group=1)
    with pytest.raises(InputError, match=r"column 'a', row 4: expected a finite number, found 'bad'"):
        list(read(Piece((str(file),)), detector, size))
