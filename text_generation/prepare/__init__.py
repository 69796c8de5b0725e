"""From a checkpoint to a model folder: download, export, compress and evaluate it."""
