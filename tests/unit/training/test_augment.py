"""Pictures changed for training: each option does what it says, by itself, and the same again for the same seed."""

import pytest
import torch
from ocsrflow.config.augmentation import Augmentation
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw
from ocsrflow.training import augment as module
from ocsrflow.training.augment import COLUMNS, add_noise, augment, blur, fade, keep_inside, move, thicken
from rdkit import Chem
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

STRENGTHS = {"rotation": 20, "scale": 0.2, "shift": 0.1, "blur": 1.5, "noise": 20, "thickness": 0.6, "grey": 0.3}
ALL = Augmentation(**STRENGTHS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(channels: int, count: int = 1, size: int = 96) -> Tensor:
    """So many times the same molecule: what differs afterwards was changed differently."""
    palette = "colour" if channels == 3 else "black_and_white"
    picture = draw(Chem.MolFromSmiles("C[C@H](N)c1ccc(O)cc1Cl"), Depiction(size=size, palette=palette))
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()).expand(count, -1, -1, -1)


def blank(count: int, size: int = 64, value: int = 255, channels: int = 1) -> Tensor:
    return torch.full((count, channels, size, size), value, dtype=torch.uint8)


def same(count: int, value: float) -> Tensor:
    return torch.full((count,), float(value))


def ink(pictures: Tensor) -> Tensor:
    return (255 - pictures.float()).sum(dim=(1, 2, 3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [Augmentation(), Augmentation(**STRENGTHS | {"share": 0})])
def test_off_is_the_same_values_and_draws_nothing(settings: Augmentation, channels: int) -> None:
    generator = seeded()
    pictures = drawn(channels, 3)
    result = augment(pictures, settings, generator)
    assert not settings.on
    assert result.is_contiguous()
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, pictures.float(), rtol=0, atol=0)
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize(("name", "channels"), [*((name, 3) for name in STRENGTHS), ("all", 1), ("all", 3)])
def test_each_option_changes_each_picture_in_its_own_way(name: str, channels: int) -> None:
    settings = ALL if name == "all" else Augmentation(**{name: STRENGTHS[name]})
    assert settings.on
    pictures = drawn(channels, 20)
    before = pictures.clone()
    result = augment(pictures, settings, seeded())
    assert torch.equal(pictures, before), "the pictures themselves are left as they are"
    assert result.shape == pictures.shape
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert result.min() >= 0
    assert result.max() <= 255
    # A few values may be so small that nothing changes, or as large as the frame allows.
    assert sum(bool((one != pictures[0]).any()) for one in result) >= 18
    assert len(torch.unique(result.flatten(1), dim=0)) >= 14
    assert torch.equal(result, augment(pictures, settings, seeded())), "the same seed, the same pictures"
    assert int((result != augment(pictures, settings, seeded(1))).flatten(1).any(dim=1).sum()) >= 18


def test_pictures_need_not_be_square_nor_lie_in_one_piece() -> None:
    pictures = drawn(3, 2)[..., 10:80, :].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    result = augment(pictures, ALL, seeded())
    assert result.shape == (2, 3, 70, 96)
    assert result.is_contiguous()
    assert augment(pictures, Augmentation(), seeded()).is_contiguous()


def test_no_pictures_are_no_pictures_and_blank_ones_stay_blank() -> None:
    assert augment(blank(0), ALL, seeded()).shape == (0, 1, 64, 64)
    blanks = blank(4)
    settings = ALL.model_copy(update={"noise": 0, "grey": 0})
    assert (augment(blanks, settings, seeded()) == 255).all()


def test_autocast_changes_nothing() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = augment(drawn(3, 2), ALL, seeded())
    assert torch.equal(result, augment(drawn(3, 2), ALL, seeded()))


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors without values raise an error where a value is asked for, which would be waiting for the device.
    def values(count: int, *_: object) -> tuple[dict[str, Tensor], int]:
        return dict.fromkeys(COLUMNS, torch.empty(count)), 0

    monkeypatch.setattr(module, "_draw", values)
    with FakeTensorMode():
        result = augment(torch.empty(2, 3, 32, 32, dtype=torch.uint8), ALL.model_copy(update={"share": 0.5}), seeded())
        assert result.shape == (2, 3, 32, 32)


def test_the_share_is_of_pictures_and_the_others_stay_exactly_as_they_are() -> None:
    pictures = drawn(1, 400, size=32)
    result = augment(pictures, Augmentation(**STRENGTHS | {"share": 0.5}), seeded())
    changed = (result != pictures).flatten(1).any(dim=1)
    assert 160 < int(changed.sum()) < 240
    whole = augment(pictures, ALL, seeded())
    assert torch.equal(result[changed], whole[changed]), "those changed are changed as without a share"


@pytest.mark.parametrize("name", STRENGTHS)
def test_an_option_leaves_the_values_of_the_others(name: str) -> None:
    pictures = drawn(1, 5)
    alone = augment(pictures, Augmentation(**{name: STRENGTHS[name]}), seeded())
    tiny = {other: 1e-9 for other in ("grey", "noise", "blur") if other != name}
    torch.testing.assert_close(augment(pictures, Augmentation(**{name: STRENGTHS[name]} | tiny), seeded()), alone)


@pytest.mark.parametrize("name", ["rotation", "scale", "shift", "blur", "noise", "thickness", "grey"])
def test_values_fill_their_range(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, at, low = {
        "rotation": ("move", 1, -20),
        "scale": ("move", 2, 0.8),
        "shift": ("move", 4, -0.1),
        "blur": ("blur", 1, 0),
        "noise": ("add_noise", 1, 0),
        "thickness": ("thicken", 1, -0.6),
        "grey": ("fade", 2, 0),
    }[name]
    high = STRENGTHS[name] + (name == "scale")
    seen = []
    original = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *given: seen.append(given[at]) or original(*given))
    augment(blank(500, size=8), Augmentation(**{name: STRENGTHS[name]}), seeded())
    [values] = seen
    assert low <= values.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < values.max() <= high


@pytest.mark.parametrize("channels", [1, 3])
def test_a_shift_moves_by_its_share_of_the_size(channels: int) -> None:
    x = 255 - drawn(channels, 2, size=100).float()
    none = same(2, 0)
    moved = move(x, none, same(2, 1), torch.tensor([0.1, -0.05]), torch.tensor([0.03, 0.0]))
    torch.testing.assert_close(moved[0, :, 3:, 10:], x[0, :, :-3, :-10], rtol=0, atol=0.02)
    torch.testing.assert_close(moved[1, :, :, :-5], x[1, :, :, 5:], rtol=0, atol=0.02)
    assert not moved[0, :, :3].any()
    assert not moved[0, :, :, :10].any()


@pytest.mark.parametrize(("degrees", "quarters"), [(90, -1), (-90, 1), (180, 2), (0, 0)])
def test_a_quarter_turn_is_that_of_the_pixels(degrees: float, quarters: int) -> None:
    x = 255 - drawn(3).float()
    turned = move(x, same(1, degrees), same(1, 1), same(1, 0), same(1, 0))
    torch.testing.assert_close(turned, torch.rot90(x, quarters, (2, 3)), rtol=0, atol=0.05)


def test_a_quarter_turn_of_an_oblong_picture_keeps_lengths() -> None:
    x = torch.zeros(1, 1, 60, 100)
    x[..., 28:32, 30:70] = 255
    turned = move(x, same(1, 90), same(1, 1), same(1, 0), same(1, 0))
    expected = torch.zeros(1, 1, 60, 100)
    expected[..., 10:50, 48:52] = 255
    torch.testing.assert_close(turned, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.3])
def test_a_factor_scales_lengths(factor: float) -> None:
    x = torch.zeros(1, 1, 100, 100)
    x[..., 30:70, 30:70] = 255
    scaled = move(x, same(1, 0), same(1, factor), same(1, 0), same(1, 0))
    assert float(scaled.sum() / x.sum()) == pytest.approx(factor**2, rel=0.02)


def centres(pictures: Tensor) -> Tensor:
    """(b, c, h, w) to the x and y of each channel's ink, (b, c, 2)."""
    x = 255 - pictures.float()
    total = x.sum(dim=(2, 3))
    along = torch.arange(float(x.shape[-1]))
    return torch.stack([(x.sum(dim=2) * along).sum(dim=2) / total, (x.sum(dim=3) * along).sum(dim=2) / total], dim=2)


def test_pictures_are_never_mirrored() -> None:
    # An L of three dots, each in a channel of its own, that lies the other way round in a mirror.
    pictures = blank(300, size=96, channels=3)
    for channel, (row, column) in enumerate([(30, 40), (66, 40), (66, 60)]):
        pictures[:, channel, row : row + 3, column : column + 3] = 0

    def handedness(pictures: Tensor) -> Tensor:
        top, corner, end = centres(pictures).unbind(1)
        (a, b), (c, d) = (top - corner).unbind(1), (end - corner).unbind(1)
        return a * d - b * c

    assert (handedness(pictures.flip(3)) < 0).all()
    settings = Augmentation(rotation=180, scale=0.2, shift=0.1, thickness=1, blur=1)
    assert (handedness(augment(pictures, settings, seeded())) > 0).all()


def test_a_drawing_stays_inside_the_frame() -> None:
    pictures = drawn(3, 200)
    x = 255 - pictures.float()
    turned = augment(pictures, Augmentation(rotation=180, scale=0.5, shift=0.5), seeded())
    spread = torch.rand(4, 200, generator=seeded()) * 2 - 1
    degrees, factor, right, down = 180 * spread[0], 1 + 0.5 * spread[1], 0.5 * spread[2], 0.5 * spread[3]
    kept, right, down = keep_inside(pictures, degrees, factor, right, down)
    moved = move(x, degrees, kept, right, down)
    # The ink that is left is that of the picture at its new size.
    torch.testing.assert_close(moved.sum(dim=(1, 2, 3)) / ink(pictures), kept**2, rtol=0.05, atol=0)
    assert (turned < 255).flatten(1).any(dim=1).all()


def test_what_fits_is_not_held_back() -> None:
    pictures = blank(2, size=100, channels=3)
    pictures[0, 1, 40:60, 40:60] = 0
    wanted = same(2, 30), same(2, 1.2), same(2, 0.1), same(2, -0.2)
    for ours, theirs in zip(keep_inside(pictures, *wanted), wanted[1:], strict=True):
        assert torch.equal(ours, theirs)


def test_thickness_changes_the_width_of_lines_by_pixels() -> None:
    x = torch.zeros(6, 1, 60, 60)
    x[..., 10:50, 26:32] = 255
    pixels = torch.tensor([-2.5, -1.0, 0.0, 0.5, 1.0, 3.0])
    result = thicken(x, pixels, 3)
    torch.testing.assert_close(result[:, 0, 30].sum(dim=1) / 255, 6 + pixels)
    torch.testing.assert_close(result[:, 0, :, 29].sum(dim=1) / 255, 40 + pixels)
    torch.testing.assert_close(result[2], x[2])


@pytest.mark.parametrize("most", [1, 4])
def test_thickness_takes_and_gives_ink_but_leaves_half(most: float) -> None:
    pictures = drawn(3, 50, size=200)
    pixels = torch.linspace(-most, most, 50)
    left = thicken(255 - pictures.float(), pixels, most).sum(dim=(1, 2, 3)) / ink(pictures)
    assert (left[1:] >= left[:-1] - 1e-4).all()
    assert (left[pixels < 0] < 1).all()
    assert (left[pixels > 0] > 1).all()
    assert left[0] >= 0.499
    assert left[-1] > 1.3
    whole = 255 - augment(pictures, Augmentation(thickness=most), seeded())
    assert 0.499 <= float(whole.sum(dim=(1, 2, 3)).min() / ink(pictures)[0]) < 0.8


def test_blur_spreads_a_dot_by_its_deviation() -> None:
    x = torch.zeros(3, 2, 41, 41)
    x[..., 20, 20] = 1000
    sigma = torch.tensor([0.0, 1.0, 2.5])
    result = blur(x, sigma, 2.5)
    torch.testing.assert_close(result[0], x[0])
    torch.testing.assert_close(result.sum(dim=(2, 3)), x.sum(dim=(2, 3)))
    along = torch.arange(-20.0, 21)
    for axis in (2, 3):
        spread = ((result.sum(dim=axis) * along**2).sum(dim=2) / 1000).sqrt()
        torch.testing.assert_close(spread[:, 0], sigma, rtol=0.02, atol=1e-4)
        torch.testing.assert_close(spread[:, 1], sigma, rtol=0.02, atol=1e-4)


def test_noise_has_its_standard_deviation_and_no_colour() -> None:
    grey = torch.full((3, 3, 200, 200), 128.0)
    sigma = torch.tensor([0.0, 5.0, 25.0])
    noise = add_noise(grey, sigma, 1) - grey
    torch.testing.assert_close(noise.std(dim=(2, 3)), sigma.view(3, 1).expand(3, 3), rtol=0.02, atol=1e-6)
    assert (noise.mean(dim=(2, 3)).abs() < 0.5).all()
    torch.testing.assert_close(noise[:, 0], noise[:, 2])


def test_grey_moves_black_and_white_towards_each_other() -> None:
    pictures = torch.tensor([0.0, 51.0, 255.0]).view(1, 1, 1, 3)
    result = fade(pictures, same(1, 0.1), same(1, 0.2), same(1, 1))
    torch.testing.assert_close(result.flatten(), torch.tensor([25.5, 61.2, 204.0]))


@pytest.mark.parametrize(("share", "expected"), [(0, (255, 0, 0)), (0.6, (153, 51, 51)), (1, (85, 85, 85))])
def test_grey_takes_colour_away(share: float, expected: tuple[float, ...]) -> None:
    red = torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)
    result = fade(red, same(1, 0), same(1, 0), same(1, share))
    assert result.flatten().tolist() == pytest.approx(expected)
