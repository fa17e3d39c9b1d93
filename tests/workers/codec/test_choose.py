"""Which library computes Mimi where."""

import pytest

from workers.codec.choose import fastest_library, library_for


def test_on_a_mac_the_codec_leaves_the_gpu_to_the_engine() -> None:
    assert fastest_library("darwin") == "numpy"


def test_what_is_chosen_is_taken() -> None:
    assert [library_for(codec) for codec in ("mlx", "numpy")] == ["mlx", "numpy"]
    with pytest.raises(ValueError, match="CODEC=other"):
        library_for("other")
