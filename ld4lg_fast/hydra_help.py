"""Help for the commands whose options are Hydra's: the config files describe themselves."""

from importlib import resources

_NOT_OPTIONS = ("defaults:", "hydra:")


def options_of(config_name: str) -> str:
    """The sections of a packaged config file that a command line can change, with their comments."""
    text = (resources.files("ld4lg_fast.configs") / f"{config_name}.yaml").read_text(encoding="utf-8")
    sections = text.strip().split("\n\n")
    return "\n\n".join(part for part in sections if not any(name in part for name in _NOT_OPTIONS))


def choices_of(*groups: str) -> str:
    """``dataset=`` and what can follow it, a line a group."""
    folder = resources.files("ld4lg_fast.configs")
    lines = []
    for group in groups:
        names = sorted(entry.name.removesuffix(".yaml") for entry in (folder / group).iterdir())
        lines.append(f"  {group + '=':<13} {', '.join(names)}")
    return "\n".join(lines)


def hydra_value(value: object) -> str:
    """A value as Hydra's command line takes it literally."""
    escaped = str(value).replace("'", "\\'")
    return f"'{escaped}'"
