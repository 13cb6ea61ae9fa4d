"""The variants that recipe_ablation.py trains: recipe v2, v3, and v3 with one switch set otherwise."""

from collections.abc import Sequence

V2 = (
    *("recipe.schedule=cosine", "recipe.adaptive_schedule=false"),
    *("recipe.self_condition_noise=0", "recipe.loss_weighting=none"),
    *("model.denoiser.unet_skips=false", "model.denoiser.qk_norm=false"),
    *("autoencoder.decoder_noise=0.1", "autoencoder.position_dropout=0", "autoencoder.token_masking=0"),
)
SWITCHES = {
    "decoder noise 0.1": ("autoencoder.decoder_noise=0.1",),
    "decoder noise 0.7": ("autoencoder.decoder_noise=0.7",),
    "no position dropout": ("autoencoder.position_dropout=0",),
    "token masking 0.2 in its place": ("autoencoder.position_dropout=0", "autoencoder.token_masking=0.2"),
    "plain latents": ("model.perceiver.l2_normalize=false",),
    "cosine": ("recipe.schedule=cosine",),
    "tan-4": ("recipe.schedule=tan-4",),
    "adaptive schedule": ("recipe.adaptive_schedule=true",),
    "no self-condition noise": ("recipe.self_condition_noise=0",),
    "min-SNR": ("recipe.loss_weighting=min_snr",),
    "x_start weighting": ("recipe.loss_weighting=x_start",),
    "pred_x0": ("recipe.objective=pred_x0",),
    "flow matching": ("recipe.objective=pred_flow", "recipe.schedule=straight"),
    "U-ViT skips": ("model.denoiser.num_dense_connections=2",),
    "no QK-norm": ("model.denoiser.qk_norm=false",),
}
VARIANTS = {"v2": V2, "v3": ()} | {f"v3, {name}": switches for name, switches in SWITCHES.items()}


def split_stages(switches: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of the autoencoder, and those of the denoiser; of several values of one switch the last counts."""
    chosen = dict(switch.split("=", 1) for switch in switches)
    first = {name for name in chosen if name.startswith(("autoencoder.", "model.perceiver."))}
    return (
        [f"{k}={v}" for k, v in chosen.items() if k in first],
        [f"{k}={v}" for k, v in chosen.items() if k not in first],
    )
