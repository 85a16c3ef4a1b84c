"""Random changes of pictures while a network is trained, on the device that trains it.

All pictures of a batch are changed at once, each with values of its own. torchvision's transforms take one value for
a whole batch, which is why this is written with PyTorch's own operations. Nothing here waits for the device: random
values are drawn on the CPU and sent there, and none of them comes back.

Shapes: b pictures, c channels (1 or 3), h rows, w columns. Up to the grey levels everything is done on ink, 255 minus
the picture: there white paper is 0, which is what PyTorch's operations find beyond the edges.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.augmentation import Augmentation

# What is drawn for every picture, whichever options are set: an option leaves the values of the others as they are.
COLUMNS = (
    "share",
    "rotation",
    "scale",
    "right",
    "down",
    "blur",
    "noise",
    "thickness",
    "lighter_black",
    "darker_white",
    "less_colour",
)
PAPER = 192  # of 255; what is darker than that is taken for a drawing
LEFT = 0.5  # share of its ink that a drawing keeps when its lines are made thinner


@torch.no_grad()
def augment(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Change each picture by random amounts of its own.

    Parameters
    ----------
    pictures
        (b, c, h, w) uint8, RGB or grey, on any device.
    settings
        What is changed, and by how much at most.
    generator
        On the CPU; it alone decides all random values (noise also differs between kinds of device). Where nothing is
        set, nothing is drawn from it.

    Returns
    -------
    (b, c, h, w) float32, contiguous, in 0..255, on the device of the pictures. Pictures that are not changed have
    exactly the values they had.
    """
    if not settings.on or not len(pictures):
        return pictures.float().contiguous()
    value, noise_seed = _draw(len(pictures), generator, pictures.device)
    # In bfloat16, which autocast would choose for the blur, white paper would get other values.
    with torch.autocast(pictures.device.type, enabled=False):
        x = 255 - pictures.float().contiguous()
        if settings.thickness:
            x = thicken(x, _both_ways(value["thickness"]) * settings.thickness, settings.thickness)
        if settings.rotation or settings.scale or settings.shift:
            x = _moved(x, pictures, settings, value)
        if settings.blur:
            x = blur(x, value["blur"] * settings.blur, settings.blur)
        x = 255 - x
        if settings.grey:
            amounts = (settings.grey * value[name] for name in ("lighter_black", "darker_white", "less_colour"))
            x = fade(x, *amounts)
        if settings.noise:
            x = add_noise(x, value["noise"] * settings.noise, noise_seed)
        x = x.clamp(0, 255)
    if settings.share < 1:
        x = torch.where(_each(value["share"] < settings.share), x, pictures)
    return x


def _draw(count: int, generator: torch.Generator, device: torch.device) -> tuple[dict[str, Tensor], int]:
    """Values in [0, 1) of each column, (count,) each, on the device; and a seed for the noise."""
    table = torch.rand(len(COLUMNS), count, generator=generator)
    noise_seed = int(torch.randint(2**62, (), generator=generator))  # on the CPU: nothing waits
    if device.type == "cuda":
        table = table.pin_memory()  # from any other memory the copy would wait for the device
    return dict(zip(COLUMNS, table.to(device, non_blocking=True), strict=True)), noise_seed


def _both_ways(value: Tensor) -> Tensor:
    """From [0, 1) to [-1, 1)."""
    return 2 * value - 1


def _each(value: Tensor) -> Tensor:
    """(b,) as (b, 1, 1, 1): one value for each picture."""
    return value.view(-1, 1, 1, 1)


def thicken(ink: Tensor, pixels: Tensor, most: float) -> Tensor:
    """Thicker lines by a local maximum, thinner ones by a local minimum.

    Parameters
    ----------
    ink
        (b, c, h, w).
    pixels
        (b,): change of the lines' thickness, negative for thinner ones; these keep half their ink, however negative.
    most
        No value is larger than that, in either direction.
    """
    # The minimum is the maximum of the negative: so one filter serves pictures of both kinds.
    sign = _each(torch.where(pixels < 0, -1.0, 1.0))
    x = ink * sign
    amount = _amount(x)
    least = LEFT * amount
    for step in range(math.ceil(most)):
        # A window of 2 × 2 changes the thickness by one pixel, where one of 3 × 3 would wipe out RDKit's lines of two
        # pixels. It moves them by half a pixel, and the next step moves them back. A part of a pixel is that part of
        # the change of each grey level, as at the edge of any line that is drawn with anti-aliasing.
        # Not by max_pool2d, which notes for every pixel where its maximum was: slower, and three times the memory.
        wider = F.pad(x, (1, 0, 1, 0) if step % 2 else (0, 1, 0, 1), mode="replicate")
        wider = torch.maximum(wider[..., 1:], wider[..., :-1])
        wider = torch.maximum(wider[..., 1:, :], wider[..., :-1, :])
        part = torch.minimum((pixels.abs() - step).clamp(0, 1), _harmless(amount, _amount(wider), least))
        x = torch.lerp(x, wider, _each(part))
        amount = _amount(x)
    return x * sign


def _amount(ink: Tensor) -> Tensor:
    """How much ink, of either sign, is on each of (b, c, h, w); (b,)."""
    return ink.sum(dim=(1, 2, 3)).abs()


def _harmless(before: Tensor, after: Tensor, least: Tensor) -> Tensor:
    """How much of a change from ``before`` to ``after`` leaves the least amount of ink or more; (b,) each.

    Without this, lines of two pixels would be gone where they are made two pixels thinner, and the label stay.
    """
    return torch.where(after < least, (before - least) / (before - after).clamp(min=1), 1).clamp(min=0)


def _moved(ink: Tensor, pictures: Tensor, settings: Augmentation, value: dict[str, Tensor]) -> Tensor:
    """Turn, scale and move by random amounts that keep each drawing inside the frame.

    Where the drawings are is seen in the pictures as they came: in ``ink``, thin lines may be faint already.
    """
    degrees, factor, right, down = (
        strength * _both_ways(value[name])
        for strength, name in (
            (settings.rotation, "rotation"),
            (settings.scale, "scale"),
            (settings.shift, "right"),
            (settings.shift, "down"),
        )
    )
    factor, right, down = keep_inside(pictures, degrees, 1 + factor, right, down)
    return move(ink, degrees, factor, right, down)


def keep_inside(
    pictures: Tensor, degrees: Tensor, factor: Tensor, right: Tensor, down: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Factor and moves with which no drawing leaves the frame: a cut atom would make the label wrong.

    The drawing is taken for the rectangle around it. Pictures are (b, c, h, w) uint8; the other parameters are those
    of :func:`move`.
    """
    height, width = pictures.shape[-2:]
    drawn = (pictures < PAPER).any(dim=1)
    x, half_width = _extent(drawn.any(dim=1))
    y, half_height = _extent(drawn.any(dim=2))
    cos, sin = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    # The turned rectangle: its middle, and half the width and height of what it covers.
    x, y = cos * x - sin * y, sin * x + cos * y
    half_width, half_height = (
        cos.abs() * half_width + sin.abs() * half_height,
        sin.abs() * half_width + cos.abs() * half_height,
    )
    factor = torch.minimum(factor, torch.minimum(width / 2 / half_width, height / 2 / half_height))
    return (
        factor,
        _move_inside(right, factor * x / width, factor * half_width / width),
        _move_inside(down, factor * y / height, factor * half_height / height),
    )


def _extent(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Of (b, n) columns or rows that are drawn on: their middle, from the frame's, and half their extent; (b,) each.

    An empty picture has its middle where the frame has it, and one pixel.
    """
    size = drawn.shape[1]
    at = torch.arange(size, device=drawn.device)
    first = torch.where(drawn, at, size).amin(dim=1)
    end = torch.where(drawn, at + 1, 0).amax(dim=1)
    return (first + end - size) / 2, (end - first).clamp(min=1) / 2


def _move_inside(move: Tensor, middle: Tensor, half: Tensor) -> Tensor:
    """The move, as far as what reaches ``half`` to both sides of ``middle`` stays within ±0.5 of the frame."""
    return torch.clamp(move, min=half - 0.5 - middle, max=0.5 - half - middle)


def move(ink: Tensor, degrees: Tensor, factor: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Turn around the middle, scale, then move; what comes from beyond the edges is 0, white.

    Parameters
    ----------
    ink
        (b, c, h, w).
    degrees
        (b,), clockwise.
    factor
        (b,), above 1 for larger.
    right, down
        (b,), shares of width and height.
    """
    height, width = ink.shape[-2:]
    cos, sin = (f(torch.deg2rad(degrees)).view(-1, 1, 1) / factor.view(-1, 1, 1) for f in (torch.cos, torch.sin))
    x = _centres(width, ink.device) - 2 * right.view(-1, 1, 1)
    y = _centres(height, ink.device).unsqueeze(1) - 2 * down.view(-1, 1, 1)
    # Where each pixel comes from: the inverse, in coordinates that run from -1 to 1 over width and height. A mirror
    # image never occurs, since the determinant, 1 / factor², is positive. It must not: mirrored, a wedge at a
    # stereocentre shows the other enantiomer (and letters what nobody prints), while the SMILES stays the same.
    # affine_grid would do the same with a product of matrices, which a GPU that may use TensorFloat-32 rounds to
    # a quarter of a pixel in large pictures.
    grid = torch.stack([cos * x + sin * (height / width) * y, cos * y - sin * (width / height) * x], dim=3)
    return F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _centres(size: int, device: torch.device) -> Tensor:
    """Middles of so many pixels in a row that runs from -1 to 1; (size,)."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def blur(ink: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Gaussian blur.

    Parameters
    ----------
    ink
        (b, c, h, w).
    sigma
        (b,): standard deviation in pixels; 0 changes nothing.
    most
        No standard deviation is larger; the kernel reaches three times as far.
    """
    batch, channels, height, width = ink.shape
    radius = math.ceil(3 * most)
    at = torch.arange(-radius, radius + 1, device=ink.device)
    kernel = torch.exp(-(at**2) / (2 * sigma.clamp(min=1e-3).unsqueeze(1) ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    # Each channel of each picture is a group: so one convolution has a kernel for each picture.
    kernel = kernel.unsqueeze(1).expand(-1, channels, -1).reshape(batch * channels, 1, 1, -1)
    x = ink.reshape(1, batch * channels, height, width)
    x = F.conv2d(x, kernel, padding=(0, radius), groups=batch * channels)
    x = F.conv2d(x, kernel.transpose(2, 3), padding=(radius, 0), groups=batch * channels)
    return x.view(batch, channels, height, width)


def fade(pictures: Tensor, lighter_black: Tensor, darker_white: Tensor, less_colour: Tensor) -> Tensor:
    """Less contrast, less colour.

    Parameters
    ----------
    pictures
        (b, c, h, w), 0 black and 255 white.
    lighter_black, darker_white
        (b,): where black and white end up, as shares of the way to each other; what lies between keeps its place.
    less_colour
        (b,): share of the way from each colour to the mean of its channels, whichever order they are in.
    """
    if pictures.shape[1] > 1:
        pictures = torch.lerp(pictures, pictures.mean(dim=1, keepdim=True), _each(less_colour))
    return pictures * _each(1 - lighter_black - darker_white) + _each(255 * lighter_black)


def add_noise(pictures: Tensor, sigma: Tensor, seed: int) -> Tensor:
    """Gaussian noise, the same in all channels of a pixel.

    Parameters
    ----------
    pictures
        (b, c, h, w).
    sigma
        (b,): standard deviation in grey levels.
    seed
        Of the noise, which is drawn on the device: it is as large as the pictures.
    """
    batch, _, height, width = pictures.shape
    generator = torch.Generator(pictures.device).manual_seed(seed)
    noise = torch.randn(batch, 1, height, width, generator=generator, device=pictures.device)
    return pictures + noise * _each(sigma)
