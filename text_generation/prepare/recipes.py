"""Chooses the recipe for compressing a model to 4 bits: the model's own, Optimum's, or a general one."""

from text_generation.prepare.models import MODELS, HubRepository, Int4Recipe


def int4_recipe(name: str, source: str | None = None) -> Int4Recipe:
    """Return the recipe for the model in the folder `name`, made from `source` (ORG/NAME@commit, or a path).

    Optimum's table contains recipes that its authors have measured; their data sets are replaced by the bundled chats.
    """
    model = MODELS.get(name)
    if model is not None and model.int4 is not None:
        return model.int4
    if model is not None and isinstance(model.source, HubRepository):
        source = model.source.name
    return _optimums(source.partition("@")[0] if source else name) or Int4Recipe()


def _optimums(repository: str) -> Int4Recipe | None:
    from optimum.intel.openvino.configuration import OVQuantizationMethod, get_default_quantization_config

    config = get_default_quantization_config(repository, weight_format="int4")
    if config is None or config.get("bits") != 4:  # some are for pipelines of several models
        return None
    awq = config.get("quant_method") == OVQuantizationMethod.AWQ
    measured = "dataset" in config
    return Int4Recipe(
        symmetric=config["sym"],
        group_size=config["group_size"],
        ratio=config.get("ratio", 1.0),
        data_free_awq=awq,
        awq=awq or not measured,
        scale_estimation=config.get("scale_estimation", not measured),
    )
