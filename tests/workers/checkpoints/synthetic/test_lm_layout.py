import pytest
from moshi_mlx.models import Lm, LmConfig, config_v0_1

from tests.workers.checkpoints.synthetic.official import parameters_of
from workers.checkpoints.synthetic.lm_layout import FULL, MID, TINY, Shape, Shapes, config_of, tensors_of


def shapes_in(lm: Lm) -> dict[str, Shape]:
    return {name: tuple(array.shape) for name, array in parameters_of(lm).items()}


@pytest.mark.parametrize("shapes", [TINY, MID, FULL], ids=["tiny", "mid", "full"])
def test_names_and_shapes_are_those_of_the_official_model(shapes: Shapes) -> None:
    lm = Lm(LmConfig.from_config_dict(config_of(shapes)))  # arrays of MLX are made when used, so this takes no memory
    assert tensors_of(shapes) == shapes_in(lm)


def test_full_is_the_7b_model() -> None:
    assert tensors_of(FULL) == shapes_in(Lm(config_v0_1()))
    ours = LmConfig.from_config_dict(config_of(FULL))
    assert ours.audio_delays == config_v0_1().audio_delays
    assert ours.transformer == config_v0_1().transformer
