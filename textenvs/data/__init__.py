"""Bundled tokenizers and word lists, each beside the script or the source that it came from."""
