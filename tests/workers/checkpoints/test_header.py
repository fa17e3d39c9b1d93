"""The header of a safetensors file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from workers.checkpoints.header import HeaderError, TensorInfo, read_header

WHOLE = save({"a": np.zeros((3, 4), np.float32), "b": np.ones(5, np.float16)}, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("header") / "file.safetensors"


def test_tensors_are_listed(path: Path) -> None:
    path.write_bytes(WHOLE)
    assert read_header(path) == {"a": TensorInfo("F32", (3, 4)), "b": TensorInfo("F16", (5,))}
    assert [one.nbytes for one in read_header(path).values()] == [48, 10]


@given(left=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused(path: Path, left: int) -> None:
    path.write_bytes(WHOLE[:left])
    with pytest.raises(HeaderError):
        read_header(path)


@given(noise=st.binary(max_size=60), header=st.sampled_from([b"", b"{}", b"[]", b'{"a": 1}', b'{"a": {"shape": [1]}}']))
def test_nonsense_is_refused(path: Path, noise: bytes, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + noise)
    if header == b"{}" and not noise:
        assert read_header(path) == {}
        return
    with pytest.raises(HeaderError):
        read_header(path)
