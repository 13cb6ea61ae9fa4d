"""Help texts of ``ld4lg train`` and ``ld4lg evaluate``: the packaged config files with their comments."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

_NOT_OPTIONS = ("defaults:", "hydra:")

GROUPS = ("dataset", "model", "autoencoder", "recipe")

TRAIN_HELP = """Usage: ld4lg train [OPTION=VALUE ...]

Trains the language autoencoder, then the denoiser of its latents. A run directory (by default
outputs/<dataset>) holds everything. Ctrl-C, SIGTERM and SIGHUP save and end with 130, 143 and 129; resume=true goes
on.

Examples:
  ld4lg train dataset=demo model=tiny train.max_minutes=4
  ld4lg train dataset=custom dataset.root=my_texts.txt model=small train.max_minutes=30
  ld4lg train resume=true hydra.run.dir=outputs/custom
  ld4lg train dataset=e2e model=base autoencoder=bart --cfg job   (prints all options, trains nothing)

Several processes or GPUs: accelerate launch -m ld4lg_fast.training [OPTION=VALUE ...]

Choices:
{groups}

hydra.run.dir= says where the run goes. The options and the values that this command line gives them; other choices
give others, as in ld4lg train model=base --help:

{options}"""

EVALUATE_HELP = """Usage: ld4lg evaluate RUN_DIR [--report PAGE.html] [--json FILE] [OPTION=VALUE ...]

Samples from a run and measures the texts beside real ones: a table, a JSON file in the run directory (or FILE; with
--json - it is printed, and nothing else) and, with --report, one self-contained page of figures, plots and samples. A
metric whose model is not available is skipped.

Examples:
  ld4lg evaluate outputs/e2e --report page.html
  ld4lg evaluate outputs/e2e generation.num_samples=200 generation.quality=balanced 'evaluation.seeds=[0,1]'
  ld4lg evaluate outputs/e2e evaluation.mauve_model=FOLDER evaluation.perplexity_model=FOLDER

Options and their values, as in generation.num_samples=200:

{options}"""


def train_help(overrides: Sequence[str] = ()) -> str:
    """The output of ``ld4lg train --help`` behind ``overrides``."""
    return TRAIN_HELP.format(groups=choices_of(*GROUPS), options=composed_options("train", overrides))


def evaluate_help() -> str:
    """The output of ``ld4lg evaluate --help``."""
    return EVALUATE_HELP.format(options=options_of("test"))


def options_of(config_name: str) -> str:
    """The sections of a packaged config file that a command line can change, with their comments."""
    sections = config_text(config_name).strip().split("\n\n")
    return "\n\n".join(part for part in sections if not any(name in part for name in _NOT_OPTIONS))


def composed_options(config_name: str, overrides: Sequence[str]) -> str:
    """The options of a packaged config, with the values of ``overrides`` and of the groups that they choose.

    Every option has the comment of the last file that sets it.

    Raises:
        HydraException, OmegaConfBaseException: an override that cannot be read, or that nothing takes.
    """
    from hydra import compose, initialize_config_module  # imported late, as it takes a while
    from omegaconf import OmegaConf

    with initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        config = compose(config_name, list(overrides), return_hydra_config=True)
    choices = config.hydra.runtime.choices
    comments = _comments(config_text(config_name), "")
    for group in (name for name in GROUPS if name in choices):
        text = config_text(f"{group}/{choices[group]}")
        comments |= _comments(text, "" if "@package _global_" in text else group)
    values: Any = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), resolve=True
    )
    return "\n".join(_lines(values, comments, ""))


def _comments(text: str, section: str) -> dict[str, str]:
    """The comment behind each option of a config file, by the option's whole name."""
    found, above = {}, [section] if section else []
    for line in text.splitlines():
        if option := re.fullmatch(r"( *)(\w+):(.*?)(?:\s+#\s*(.*))?", line):
            depth = len(option[1]) // 2 + bool(section)
            above = [*above[:depth], option[2]]
            if option[4]:
                found[".".join(above)] = option[4]
    return found


def _lines(values: Mapping[str, Any], comments: Mapping[str, str], section: str) -> Iterator[str]:
    for key, value in values.items():
        name = f"{section}.{key}".lstrip(".")
        comment = f"  # {comments[name]}" if name in comments else ""
        indent = "  " * name.count(".")
        if isinstance(value, dict):
            if not section:
                yield ""
            yield f"{indent}{key}:{comment}"
            yield from _lines(value, comments, name)
        else:
            shown = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
            yield f"{indent}{key}: {shown}{comment}"


def config_text(config_name: str) -> str:
    """The text of a packaged config file."""
    return (resources.files("ld4lg_fast.configs") / f"{config_name}.yaml").read_text(encoding="utf-8")


def choices_of(*groups: str) -> str:
    """A line for each group with its choices: ``dataset=  demo, e2e``."""
    folder = resources.files("ld4lg_fast.configs")
    lines = []
    for group in groups:
        names = sorted(entry.name.removesuffix(".yaml") for entry in (folder / group).iterdir())
        lines.append(f"  {group + '=':<13} {', '.join(names)}")
    return "\n".join(lines)
