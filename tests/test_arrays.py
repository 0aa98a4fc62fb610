""""""

import io
import zipfile

import numpy as np
import pytest

from serve_app.arrays import read_arrays


def test_arrays_are_read_whole(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.arange(3.0))
    assert read_arrays(tmp_path / "a.npz")["one"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("header", ["{'descr': (", "{'descr': '<f8',, }", "(" * 5_000])
def test_a_header_that_is_no_literal_is_told_like_every_other_fault(tmp_path, header):
    """As a single wrong bit leaves it."""
    text = header.encode("latin1") + b"\n"
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as out:
        out.writestr("one.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24))
    (tmp_path / "a.npz").write_bytes(raw.getvalue())
    with pytest.raises(ValueError, match=r"not a whole npz file|Cannot parse header|descr"):
        read_arrays(tmp_path / "a.npz")
