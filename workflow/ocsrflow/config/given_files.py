"""Files and folders that a configuration names and that no rule makes."""

import os

from .experiment import Config, parent_in
from .network import Network
from .styles import FONTS


def parents_elsewhere(config: Config) -> dict[str, tuple[str, Network]]:
    """Folders of trained models that models start from and that this configuration does not train.

    By the key that names one: the folder, and the shape of the network that is to start from it.
    """
    return {
        f"models.{i}.network.pretrained": (model.network.parent, model.network)
        for i, model in enumerate(config.models)
        if model.network.parent is not None and parent_in(config, model) is None
    }


def missing_files(config: Config) -> list[str]:
    """One line for each file or folder that the configuration names and that is not there.

    Snakemake itself would say nothing as long as an earlier report is there.
    """
    named = [
        (f"{section}.{i}.{key}", getattr(item, key))
        for section, keys in (("sources", ("path", "csv", "pictures")), ("benchmarks", ("images", "references")))
        for i, item in enumerate(getattr(config, section))
        for key in keys
        if hasattr(item, key)
    ]
    styles = {f"drawings.{i}.style": drawing.style for i, drawing in enumerate(config.drawings)}
    if config.depiction.styles is not None:
        styles["depiction.styles"] = config.depiction.styles
    named += [(f"{key}.fonts", font) for key, style in styles.items() for font in style.fonts if font not in FONTS]
    # Unlike pathlib, os.path says False of what can be no path, too.
    lines = [f"{key}: no such file or folder: {path}" for key, path in named if not os.path.exists(path)]
    for key, (folder, network) in parents_elsewhere(config).items():
        if not all(os.path.exists(f"{folder}/{file}") for file in ("model.json", "weights.safetensors")):
            wanted = "model"
            if network.pretrained == "reference":
                wanted = f"reference model of {network.encoder} with dim {network.dim}"
            lines.append(
                f"{key}: no trained {wanted} in {folder} (model.json and weights.safetensors); give imagenet, none, "
                "reference or the folder of a trained model"
            )
    return lines
