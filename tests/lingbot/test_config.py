import pytest

from lingbot.config import (
    PRESETS,
    SCHEDULE_V1,
    SCHEDULE_V2,
    SCHEDULE_V2_CLI,
    ModelConfig,
    ScheduleConfig,
    Size,
    WorldConfig,
    read_size,
)
from lingbot.errors import LingbotError


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: ScheduleConfig(indices=(0, 5, 5), shift=1.0), "must rise"),
        (lambda: ScheduleConfig(indices=(0, 1000), shift=1.0), "must rise"),
        (
            lambda: WorldConfig(name="x", sizes=(), schedule=SCHEDULE_V2),
            "needs a size",
        ),
        (lambda: Size(50, 32), "size 50x32 must be a multiple of 16"),
        (lambda: read_size("832*480"), "'832\\*480', expected 'WIDTHxHEIGHT' like '832x480'"),
        (
            lambda: ModelConfig(
                dim=10, ffn_dim=1, freq_dim=2, num_heads=3, num_layers=1, text_dim=1, text_len=1
            ),
            "divisible",
        ),
    ],
)
def test_an_impossible_config_is_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_a_sizes_grid_has_a_token_for_16_by_16_pixels():
    size = read_size("832x464")
    assert (size, str(size), size.num_pixels) == (Size(832, 464), "832x464", 832 * 464)
    assert (size.latent, size.grid, size.num_tokens) == ((58, 104), (29, 52), 1508)


@pytest.mark.parametrize(
    "name, variant, schedule, chunk, window, sink",
    [
        ("v1-14b", "diffusers", SCHEDULE_V1, 3, 18, 9),
        ("v1-14b-act", "reference", SCHEDULE_V1, 3, 21, 9),
        ("v2-14b", "diffusers", SCHEDULE_V2, 3, 18, 9),
        ("v2-14b", "reference", SCHEDULE_V2_CLI, 4, 18, 6),
        ("v2-1.3b", "reference", SCHEDULE_V2_CLI, 4, 18, 6),
    ],
)
def test_a_variant_has_the_published_figures(name, variant, schedule, chunk, window, sink):
    world = PRESETS[name].configure(variant=variant)
    assert world.name == name and world.size == Size(832, 480)
    assert (world.schedule, world.chunk) == (schedule, chunk)
    assert (world.window, world.sink) == (window, sink)


def test_the_default_variant_is_that_of_the_diffusers_folder_where_there_is_one():
    for name, preset in PRESETS.items():
        default = "reference" if name == "v2-1.3b" else "diffusers"
        assert preset.configure() == preset.world
        assert not preset.variants or preset.world == preset.configure(variant=default)


def test_an_operator_changes_sizes_and_window():
    world = PRESETS["v1-14b"].configure(sizes=["832x464", "1280x720"], window=9)
    assert world.sizes == (Size(832, 464), Size(1280, 720))
    assert world.largest_size == Size(1280, 720)
    assert (world.window, world.sink) == (9, 6)  # the default sink, 9, leaves no room for a chunk
    assert PRESETS["v1-14b"].configure(window=15, sink=3).sink == 3


@pytest.mark.parametrize(
    "name, changes, field, reason",
    [
        ("pocket", {"variant": "reference"}, "variant", "'pocket' has no variants"),
        ("v1-14b", {"window": 2}, "window", "window 2 must hold the sink"),
        ("v1-14b", {"sink": 16}, "sink", r"window 18 must hold the sink \(16\)"),
        ("v1-14b", {"sizes": []}, "sizes", "no size"),
        ("v1-14b", {"sizes": ["832x480", "832x470"]}, "sizes[1]", "832x470 must be a multiple"),
        ("v1-14b", {"sizes": ["832"]}, "sizes[0]", "expected 'WIDTHxHEIGHT'"),
        ("v1-14b", {"sizes": ["16x16", "16x16"]}, "sizes[1]", "given twice"),
        ("v2-14b", {"sizes": ["1296x720"]}, "sizes[0]", "933120 pixels, expected at most the 921"),
        ("pocket", {"sizes": ["832x480"]}, "sizes[0]", "at most the 26624 of preset 'pocket'"),
    ],
)
def test_a_figure_that_the_preset_cannot_have_names_its_field(name, changes, field, reason):
    with pytest.raises(LingbotError, match=reason) as refused:
        PRESETS[name].configure(**changes)
    assert refused.value.field == field


def test_a_preset_has_the_vaes_that_its_files_are_for():
    assert PRESETS["pocket"].choose_vae(None) == "tiny"
    assert PRESETS["v1-14b"].choose_vae(None) == "full"
    assert PRESETS["v1-14b"].choose_vae("tiny") == "tiny"
    with pytest.raises(LingbotError, match="'pocket' has no VAE 'full', expected 'tiny'"):
        PRESETS["pocket"].choose_vae("full")
