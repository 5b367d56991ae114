"""The wire as an AsyncAPI document and the HTTP endpoints as an OpenAPI document.

`python -m transport.spec` generates both files in this folder.
"""
