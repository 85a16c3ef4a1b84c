"""What the self-contained HTML pages share: their templates, and pictures that are part of the page."""

import base64
import io

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from ..depiction.plain import Picture


def template(name: str) -> Template:
    """A template of the package; whatever is put into it is escaped, and nothing may be missing."""
    environment = Environment(
        loader=PackageLoader("ocsrflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def data_uri(picture: Picture) -> str:
    """A picture, (size, size, channels) uint8, as the address of a PNG without metadata."""
    data = io.BytesIO()
    Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(data, "PNG", optimize=True)
    return png_uri(data.getvalue())


def small_png(image: Image.Image, colours: int) -> bytes:
    """The bytes of a PNG file of so many colours: few are all that a drawing needs."""
    data = io.BytesIO()
    image.convert("RGB").quantize(colours).save(data, "PNG", optimize=True)
    return data.getvalue()


def png_uri(data: bytes) -> str:
    """The bytes of a PNG file as an address."""
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def text_uri(text: str) -> str:
    """A text as an address, to be saved from the page."""
    return f"data:text/plain;charset=utf-8;base64,{base64.b64encode(text.encode()).decode('ascii')}"
