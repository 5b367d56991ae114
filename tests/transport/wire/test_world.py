import pytest

from transport.wire.world import WorldInfo


def info(sizes=(), *, multiple=16, max_pixels=832 * 480):
    return WorldInfo(
        preset="test",
        sizes=sizes,
        size_multiple=multiple,
        max_pixels=max_pixels,
        fps=16,
        chunk_latent_frames=3,
        first_chunk_frames=9,
        chunk_frames=12,
        max_window=21,
        sink=6,
        max_steps=4,
        openings=(),
    )


@pytest.mark.parametrize(
    "requested, served",
    [
        ((112, 64), (112, 64)),
        ((1920, 1080), (224, 128)),
        ((60, 110), (64, 112)),
        ((1, 1), (64, 64)),
    ],
)
def test_the_nearest_listed_size_is_close_in_area_and_aspect(requested, served):
    sizes = ((112, 64), (224, 128), (64, 112), (64, 64))
    assert info(sizes).nearest_size(*requested) == served


@pytest.mark.parametrize(
    "requested, served",
    [((832, 480), (832, 480)), ((830, 475), (832, 480)), ((1, 1), (16, 16)), ((20, 40), (16, 32))],
)
def test_without_a_list_a_size_is_rounded_to_the_multiple(requested, served):
    assert info().nearest_size(*requested) == served


@pytest.mark.parametrize(
    "requested", [(8192, 8192), (8192, 1), (1, 8192), (1920, 1080), (841, 481)]
)
def test_no_size_is_over_the_pixel_limit(requested):
    width, height = info().nearest_size(*requested)
    assert 0 < width * height <= 832 * 480
    assert width % 16 == height % 16 == 0
