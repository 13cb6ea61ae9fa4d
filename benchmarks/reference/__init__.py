"""The two published systems in plain eager PyTorch, as their authors run them: every benchmark's baseline.

Float32, einsum attention, materialised masks, two network passes for guidance, one step after the other,
nothing fused and nothing computed ahead. Parameter names are those of the published state dicts. Imports
nothing of ours.

* ``v2_*``: the official release (Lovelace et al. 2023).
* ``v1_*``: the unofficial implementation of the paper's first version.
* ``pipeline``: text sampling around a Hugging Face encoder-decoder model.
"""
