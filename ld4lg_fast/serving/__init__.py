"""`PipelineBackend`: a pipeline behind the HTTP server of `export.runtime.serving`.

Imports pipeline, and the rooms below it.
"""
