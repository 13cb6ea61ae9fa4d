"""The HTTP server of a model: OpenAI's routes, streaming, limits, metrics, and a page to play with.

Shared by ``ld4lg serve`` and exported folders: a `Backend` is PyTorch's engine or onnxruntime's sessions. Needs the
packages fastapi, uvicorn and prometheus-client besides those of the runtime, and no PyTorch.
"""
