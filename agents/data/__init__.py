"""The bundled language model, beside the script that trained it."""
