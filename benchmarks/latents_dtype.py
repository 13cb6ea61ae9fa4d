"""What `train.latents_dtype` costs: texts that are decoded otherwise from rounded latents.

python benchmarks/latents_dtype.py [RUN_DIR] [--dataset e2e --root FOLDER] [--num-texts N] [--json FILE]

Validation texts are encoded, their latents rounded as they are on disk, and decoded greedily. ``error`` is the root
mean square of the rounding over that of the latents; ``changed`` the share of texts that are decoded otherwise than
from float32.
"""

import argparse
import json
from pathlib import Path

from harness import describe_device, versions

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data import load_text_dataset
from ld4lg_fast.options.precisions import TORCH_NAMES, torch_dtype
from ld4lg_fast.training.reconstruction import exact_decoding


def dtype_rows(pipe: TextDiffusionPipeline, texts: list[str]) -> list[dict]:
    latents, mask = pipe.encode(texts)
    decoding = exact_decoding(pipe.autoencoder.max_len)
    wanted = pipe.decode(latents, decoding, mask=mask)
    rows = []
    for name in TORCH_NAMES:
        stored = latents.to(torch_dtype(name))
        found = pipe.decode(stored.float(), decoding, mask=mask)
        error = (stored.float() - latents).square().mean() / latents.square().mean()
        rows.append(
            {
                "dtype": name,
                "bytes_per_text": stored[0].nbytes,
                "error": error.sqrt().item(),
                "changed": sum(map(str.__ne__, found, wanted)) / len(texts),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, nargs="?", help="a finished run; default: the model that ships")
    parser.add_argument("--dataset", default="e2e")
    parser.add_argument("--root", type=Path, help="its folder; default: where training finds it")
    parser.add_argument("--num-texts", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    texts = list(load_text_dataset(options.dataset, root=options.root).validation.texts[: options.num_texts])
    pipe = TextDiffusionPipeline.from_pretrained(options.run_dir)
    name = options.run_dir.name if options.run_dir else "the model that ships"
    result = {
        "run": name,
        "dataset": options.dataset,
        "num_texts": len(texts),
        "rows": dtype_rows(pipe, texts),
    }
    for row in result["rows"]:
        print(json.dumps(row))
    if options.json:
        about = {"device": describe_device("cpu"), "versions": versions()}
        options.json.write_text(json.dumps(result | about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
