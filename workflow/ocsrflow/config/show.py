"""The command ``ocsrflow config``: a configuration checked alone, and the files that are generated from its models."""

from pathlib import Path

from ..runtime.errors import UserError
from .experiment import Config, read, schema
from .settings_table import settings as table


def config(file: Path = Path("config.yaml"), /, *, json_schema: bool = False, settings: bool = False) -> None:
    """Check a configuration file: one line says whether it is valid, or what is wrong and where.

    Example: ``ocsrflow config mine.yaml``

    Parameters
    ----------
    file
        A whole configuration.
    json_schema
        Print the JSON schema instead (``workflow/schemas/config.schema.json``).
    settings
        Print the table of all settings instead (``docs/settings.md``).

    Raises
    ------
    UserError
        Where it is not valid.
    """
    if json_schema and settings:
        raise UserError("give --json-schema or --settings, not both")
    if json_schema:
        print(schema(), end="")
    elif settings:
        print(table(Config.model_json_schema()), end="")
    else:
        read(file)
        print(f"{file}: valid")
