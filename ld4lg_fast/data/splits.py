"""Makes splits that are not in the files: as published for known corpora, by a fixed rule for custom ones.

Both published systems use the ``datasets`` library, whose seeded shuffle is one permutation of NumPy's default
generator; each row is in the same split here.
"""

import numpy as np

from ld4lg_fast.data.catalogue import DatasetSpec
from ld4lg_fast.data.corpus import SPLITS, TextSplit
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.text_display import get_logger

logger = get_logger(__name__)

PUBLISHED_SEED = 42
_HELD_OUT_SHARE = 20
_HELD_OUT_MOST = 1000

Splits = dict[str, TextSplit]


def complete_custom(splits: Splits, seed: int, origin: str) -> tuple[Splits, list[str]]:
    """Makes missing held-out splits from training texts: a twentieth each, at least 1 and at most 1,000.

    Returns the three splits and a description.

    Raises:
        DataError: there is no training split, or too few texts.
    """
    if "train" not in splits:
        raise DataError(
            f"dataset=custom has no training texts in {origin}: name them with dataset.files.train=..."
        )
    missing = [split for split in ("validation", "test") if split not in splits]
    if not missing:
        return splits, []
    train = splits["train"]
    held_out = min(_HELD_OUT_MOST, max(1, len(train) // _HELD_OUT_SHARE))
    if len(train) <= held_out * len(missing):
        raise DataError(
            f"{origin} has {len(train)} texts, too few to hold out {' and '.join(missing)} texts: "
            f"give at least {len(missing) + 1}"
        )
    order = np.random.default_rng(seed).permutation(len(train))
    splits = dict(splits)
    for split in missing:
        splits[split], order = train.select(np.sort(order[:held_out])), order[held_out:]
    splits["train"] = train.select(np.sort(order))
    names = " and ".join(missing)
    return splits, [f"{names}: {held_out} of the training texts each, chosen with seed {seed}"]


def complete_published(
    name: str, spec: DatasetSpec, splits: Splits, seed: int, train_fallback: str | None, origin: str
) -> tuple[Splits, list[str]]:
    """Shuffles and splits as published (with ``seed`` 42), then applies ``train_fallback``.

    Returns the three splits and a description.

    Raises:
        DataError: a split is missing.
    """
    splits, notes = dict(splits), []
    if spec.shuffle:
        splits = {
            split: part.select(np.random.default_rng(seed).permutation(len(part)))
            for split, part in splits.items()
        }
    keep = spec.test_rows_after
    if keep and "test" not in splits and len(splits.get("validation", ())) > keep:
        held_out = splits["validation"]
        splits["validation"] = held_out.select(range(keep))
        splits["test"] = held_out.select(range(keep, len(held_out)))
        notes.append(f"test: all but {keep} of the validation texts, shuffled with seed {seed}")
    take = spec.validation_rows
    if take and "validation" not in splits and len(splits.get("train", ())) > take:
        train = splits["train"]
        order = np.random.default_rng(seed).permutation(len(train))
        splits["validation"], splits["train"] = train.select(order[:take]), train.select(order[take:])
        notes.append(f"validation: {take} of the training texts, chosen with seed {seed}")
    if "train" not in splits and train_fallback and len(splits.get(train_fallback, ())) > 1:
        donor = splits[train_fallback]
        order = np.random.default_rng(seed).permutation(len(donor))
        kept = max(1, len(donor) // 10)
        splits[train_fallback], splits["train"] = donor.select(order[:kept]), donor.select(order[kept:])
        note = f"train: {len(donor) - kept} of the {train_fallback} texts, for want of a training file"
        logger.warning("dataset=%s, %s: figures cannot be compared with published ones.", name, note)
        notes.append(note)
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        remedy = ", or set dataset.train_fallback=validation" if missing == ["train"] else ""
        wanted = "; ".join(f"{split}: {', '.join(spec.stems_of(split))}" for split in missing)
        raise DataError(
            f"dataset={name} has no {' and no '.join(missing)} texts in {origin}: "
            f"add files of these names ({wanted}){remedy}"
        )
    return splits, notes
