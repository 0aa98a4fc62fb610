"""An adapter's files in PEFT's format: read and checked without running anything in them, and without torch.

    adapter_config.json         what PEFT writes: rank, alpha, target modules
    adapter_model.safetensors   per module `base_model.model.<module>.lora_A.weight` [rank, inputs] and `.lora_B.weight`
                                [outputs, rank]
    jethro_adapter.json         what Jethro adds, see `card`

Weights in any other format are refused: a pickle runs code when it is read.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from safetensors import SafetensorError, safe_open

from serve_app.errors import InvalidAdapter

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
ABOUT: Final = "jethro_adapter.json"
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_PICKLE_STARTS: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_DTYPES: Final = ("F32", "F16", "BF16")
_KEY: Final = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")
_PLAIN_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to initialise an adapter that leave the base model's weights as they are."""
_JSON_BYTES: Final = 1 << 20
_UNSUPPORTED: Final = (
    *("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern"),
    *("layer_replication", "trainable_token_indices", "target_parameters", "alora_invocation_tokens"),
)


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """One module of the base model that an adapter changes: its LoRA pair is [rank, inputs] and [outputs, rank]."""

    rank: int
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights of both matrices."""
        return self.rank * (self.inputs + self.outputs)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A checked folder. `scale` is what B·A is multiplied by; `base` is what its trainer called the base model."""

    folder: Path
    rank: int
    scale: float
    modules: Mapping[str, ModuleShape]
    bytes: int
    base: str | None

    @property
    def parameters(self) -> int:
        """Weights of all modules."""
        return sum(shape.parameters for shape in self.modules.values())


def read_files(folder: Path) -> AdapterFiles:
    """Read configuration and header of an adapter's folder; no weight is loaded.

    Raises InvalidAdapter, naming the file and what to do.
    """
    if not folder.is_dir():
        raise InvalidAdapter(f"{folder}: no such folder; give one with {CONFIG} and {WEIGHTS}")
    config = read_json(folder / CONFIG, "save the adapter with PEFT's `save_pretrained`")
    _check_kind(folder / CONFIG, config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise InvalidAdapter(
            f"{folder / CONFIG}: r is {_short(rank)} and lora_alpha {_short(alpha)}; r must be a whole number from 1, "
            "lora_alpha a number above 0"
        )
    try:
        modules, size = _modules(folder, rank), (folder / WEIGHTS).stat().st_size
    except OSError as e:
        raise InvalidAdapter(f"{folder}: cannot be read ({e}); add the adapter again") from e
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    base = config.get("base_model_name_or_path")
    return AdapterFiles(folder, rank, scale, modules, size, base if isinstance(base, str) and base else None)


def tensor_key(module: str, side: Literal["A", "B"]) -> str:
    """The name of a module's matrix in the weights file."""
    return f"base_model.model.{module}.lora_{side}.weight"


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """A JSON object of at most 1 MiB. Raises InvalidAdapter with the remedy."""
    try:
        if file.stat().st_size > _JSON_BYTES:
            raise InvalidAdapter(f"{file}: is over {_JSON_BYTES} bytes; {remedy}")
        body = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InvalidAdapter(f"{file}: no such file; {remedy}") from None
    except (OSError, ValueError, RecursionError) as e:
        raise InvalidAdapter(f"{file}: cannot be read ({type(e).__name__}: {e}); {remedy}") from e
    if not isinstance(body, dict):
        raise InvalidAdapter(f"{file}: must be a JSON object; {remedy}")
    return body


def _check_kind(file: Path, config: Mapping[str, Any]) -> None:
    """Refuses what would be ignored, and so answer wrongly."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InvalidAdapter(f"{file}: peft_type is {_short(kind)}; only LORA is supported")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise InvalidAdapter(f"{file}: {key} is set, which is not supported; train the adapter without it")
    if config.get("bias", "none") != "none":
        raise InvalidAdapter(f"{file}: bias is {_short(config['bias'])}; train the adapter with bias none")
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise InvalidAdapter(
            f"{file}: init_lora_weights is {_short(start)}, which changes the base model's weights as well; save the "
            "adapter converted to plain LoRA (`path_initial_model_for_weight_conversion` of PEFT's save_pretrained)"
        )


def _modules(folder: Path, rank: int) -> dict[str, ModuleShape]:
    """By module of the base model, the shapes of its pair. Raises InvalidAdapter unless every tensor belongs to one."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in _shapes(folder).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidAdapter(
                f"{folder / WEIGHTS}: tensor {key[:120]!r} is no LoRA matrix of a linear module; only lora_A and "
                "lora_B are supported: train without embeddings, biases and magnitudes"
            )
        shapes.setdefault(match["module"], {})[match["side"]] = shape
    if not shapes:
        raise InvalidAdapter(f"{folder / WEIGHTS}: holds no tensor; save the adapter again")
    found = {}
    for module, pair in shapes.items():
        down, up = pair.get("A"), pair.get("B")
        if down is None or up is None:
            raise InvalidAdapter(f"{folder / WEIGHTS}: {module} has one of lora_A and lora_B; save the adapter again")
        if len(down) != 2 or len(up) != 2 or down[0] != rank or up[1] != rank:
            raise InvalidAdapter(
                f"{folder / WEIGHTS}: {module} has lora_A {list(down)} and lora_B {list(up)}, but {CONFIG} says rank "
                f"{rank}: the files are not of one adapter; save it again"
            )
        found[module] = ModuleShape(rank, down[1], up[0])
    return found


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor, from the header alone."""
    file = folder / WEIGHTS
    _check_format(folder)
    try:
        with safe_open(file, "np") as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 - no mapping
            kinds = {key: each.get_dtype() for key, each in slices.items()}
            shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
    except (SafetensorError, ValueError) as e:
        raise InvalidAdapter(f"{file}: is damaged ({e}); copy or save the adapter again") from e
    if wrong := {kind for kind in kinds.values() if kind not in _DTYPES}:
        raise InvalidAdapter(
            f"{file}: holds {', '.join(sorted(wrong))}; adapters are of {', '.join(_DTYPES)}: save it unquantized"
        )
    return shapes


def _check_format(folder: Path) -> None:
    """Refuses a folder without safetensors, and pickles under that name."""
    file = folder / WEIGHTS
    remedy = "load the adapter where you trust it, and save it with PEFT's `save_pretrained`, which writes safetensors"
    if not file.is_file():
        pickles = sorted(f.name for f in folder.iterdir() if f.suffix in _PICKLES)
        if pickles:
            raise InvalidAdapter(
                f"{folder}: has {pickles[0]} and no {WEIGHTS}: a pickle runs code when it is read, and is refused; "
                f"{remedy}"
            )
        raise InvalidAdapter(f"{folder}: has no {WEIGHTS}; {remedy}")
    with file.open("rb") as opened:
        start = opened.read(8)
    # a header's length may begin with the same bytes, but never ends beyond the file
    if start.startswith(_PICKLE_STARTS) and int.from_bytes(start, "little") > file.stat().st_size:
        raise InvalidAdapter(f"{file}: is a pickle under another name, and is refused; {remedy}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
