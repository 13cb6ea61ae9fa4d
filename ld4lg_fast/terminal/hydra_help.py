"""Help texts of ``ld4lg train`` and ``ld4lg evaluate``: the packaged config files with their comments."""

from importlib import resources

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

Options and their values, as in train.max_minutes=30; model= and recipe= replace some, hydra.run.dir= says where
the run goes:

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


def train_help() -> str:
    """The output of ``ld4lg train --help``."""
    return TRAIN_HELP.format(groups=choices_of(*GROUPS), options=options_of("train"))


def evaluate_help() -> str:
    """The output of ``ld4lg evaluate --help``."""
    return EVALUATE_HELP.format(options=options_of("test"))


def options_of(config_name: str) -> str:
    """The sections of a packaged config file that a command line can change, with their comments."""
    sections = config_text(config_name).strip().split("\n\n")
    return "\n\n".join(part for part in sections if not any(name in part for name in _NOT_OPTIONS))


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
