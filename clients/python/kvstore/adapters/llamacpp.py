# SPDX-License-Identifier: Apache-2.0
"""Keeps the KV of llama.cpp sequences in the store, 256 tokens a chunk, bit for bit.

The adapter works over the C functions of a running llama.cpp, whatever brought them: it needs the
ctypes library and the context's address. It copies no KV itself. Saving lends a chunk's cells to a
scratch sequence (metadata only) and lets the engine write that sequence's state; restoring hands
the stored state back in place, from shared memory where the daemon grants it.

A store that is full, slow or gone never fails the engine: each report says how far it went and why
it stopped, and the engine computes the rest. Nothing here is thread-safe; call it on the thread
that decodes. See docs/engines/llamacpp.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kvstore
from kvstore.adapters.llamacpp_functions import Functions, UnsupportedEngine, address_of
from kvstore.adapters.llamacpp_state import MalformedState, StateShape

CHUNK_TOKEN_COUNT = 256
# What one request to the store may bring at once; a chunk of a large model can be 32 MiB.
FETCH_BYTE_COUNT_MAX = 64 << 20

_ROPE_FIELDS = (
    "rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor",
    "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip

# llama.cpp's numbers of `rope_scaling_type`; -1: the model's.
_ROPE_SCALINGS = {0: "none", 1: "linear", 2: "yarn", 3: "longrope"}
# Architectures with layers that do not turn, or turn otherwise.
_UNEVENLY_TURNED = ("cohere2", "exaone4", "llama4", "smollm3")
# Tensors by which frequencies are multiplied, and where in a GGUF file their names stand.
_ROPE_FACTOR_NAMES = (b"rope_freqs.weight", b"rope_factors_long.weight")
_GGUF_HEADER_BYTE_COUNT_MAX = 32 << 20

_log = logging.getLogger(__name__)


class EngineRefusal(RuntimeError):
    """The engine did not take a state of the right form; most likely it has no free cells."""


class _LeaseEnded(Exception):
    """The engine may have read bytes that were no longer the chunk's."""


@dataclass(frozen=True)
class EngineIdentity:
    """What decides the KV besides the tokens, and cannot be asked from the context.

    `model_digest`: see `model_digest()`. `rope`: the context parameters of that name, as given to
    the engine (0 or -1: the model's). `engine_build`: empty for what the library says about itself.
    `modifications`: LoRA adapters, control vectors and metadata overrides in force, in any text
    that changes when they do. `has_rope_factors`: the model has a tensor of factors for its RoPE
    frequencies, as Llama 3.1 has; with a wrong answer chunks are compressed less, nothing else.
    """

    model_digest: str
    rope: Mapping[str, float] = field(default_factory=dict)
    engine_build: str = ""
    modifications: str = ""
    has_rope_factors: bool = False

    @classmethod
    def of(cls, model_paths: Sequence[str | Path], context_parameters: Any) -> EngineIdentity:
        """Identity from the GGUF files and a ctypes `llama_context_params` (llama.cpp's names)."""
        rope = {name: getattr(context_parameters, name) for name in _ROPE_FIELDS}
        has_factors = any(_has_rope_factors(Path(path)) for path in model_paths)
        return cls(model_digest(*model_paths), rope, has_rope_factors=has_factors)


@dataclass(frozen=True)
class SaveReport:
    """What `save` did. `chunks`, `bytes`: stored now; `fault`: why it stopped early, or None."""

    chunks: int
    bytes: int
    present_chunks: int
    fault: str | None = None


@dataclass(frozen=True)
class RestoreReport:
    """What `restore` did. `token_count`: tokens the sequence now holds; decode from there."""

    token_count: int
    chunks: int
    bytes: int
    fault: str | None = None


class LlamaCppAdapter:
    """Saves and restores sequences of one llama.cpp context. The context must outlive it."""

    def __init__(
        self,
        client: Any,
        library: ctypes.CDLL,
        context: int,
        identity: EngineIdentity,
        *,
        scratch_sequence: int | None = None,
    ) -> None:
        """Learns the state's shape by decoding one token (one decode step, once).

        `context` is the address of the `llama_context`, which needs `kv_unified = true` and
        `n_seq_max >= 2`: `scratch_sequence`, by default the last one, belongs to the adapter.
        Raises `UnsupportedEngine` where the engine's state has no per-token form.
        """
        self._client = client
        self._functions = Functions(library)
        self._context = ctypes.c_void_p(context)
        self._memory = ctypes.c_void_p(self._functions.get_memory(self._context))
        sequence_count = self._functions.sequence_count(self._context)
        if sequence_count < 2:
            raise UnsupportedEngine("the context has one sequence; cure: n_seq_max = 2 or more")
        self._scratch = sequence_count - 1 if scratch_sequence is None else scratch_sequence
        if not 0 <= self._scratch < sequence_count:
            raise ValueError(f"scratch_sequence {scratch_sequence} is not below {sequence_count}")
        self.shape = self._learn_shape()
        self.chunk_byte_count = self.shape.byte_count(CHUNK_TOKEN_COUNT)
        self.layout_description = self._describe(library, identity)
        self.layout_id: bytes = kvstore.layout_id(self.layout_description)
        self._is_described = False

    @classmethod
    def for_llama_cpp_python(
        cls, client: Any, context: Any, context_parameters: Any, *model_paths: str | Path
    ) -> LlamaCppAdapter:
        """For a context of `llama_cpp`'s low-level functions, from the parameters it was made of.

        The class `llama_cpp.Llama` does not do: it opens its context with one sequence.
        """
        import llama_cpp  # optional, and only here

        identity = EngineIdentity.of(model_paths, context_parameters)
        address = ctypes.cast(context, ctypes.c_void_p).value
        if address is None:
            raise ValueError("the context is null")
        return cls(client, llama_cpp.llama_cpp._lib, address, identity)

    def save(self, sequence: int, tokens: Sequence[int]) -> SaveReport:
        """Stores the complete chunks of `tokens`, which `sequence` holds from position 0 on.

        Chunks that are stored already are neither read from the engine nor sent. Stops at the first
        that cannot be stored, since those behind it could not be found.
        """
        stored = present = 0
        fault: str | None = None
        state = bytearray(self.chunk_byte_count)
        try:
            keys = self._client.prefix_keys(self.layout_id, tokens, CHUNK_TOKEN_COUNT)
            present = self._client.lookup_prefix(keys)
            if present < len(keys) and not self._is_described:
                self._client.describe_layout(self.layout_description)
                self._is_described = True
            for index in range(present, len(keys)):
                self._read_chunk(sequence, index, state)
                if self._client.put(keys[index], state, layout_id=self.layout_id,
                                    first_position=index * CHUNK_TOKEN_COUNT):
                    stored += 1
        except Exception as error:  # the engine goes on, whatever the store or the chunk has
            fault = _describe_fault("save", error)
        return SaveReport(stored, stored * self.chunk_byte_count, present, fault)

    def restore(
        self, sequence: int, tokens: Sequence[int], held_token_count: int = 0
    ) -> RestoreReport:
        """Gives `sequence` the longest stored prefix of `tokens`.

        `held_token_count`: how many of these tokens the sequence holds already; those are kept if
        the store has no more. Afterwards the sequence holds exactly the reported tokens and nothing
        behind them, always at least one less than `tokens`: logits are no part of a state, so the
        last token is decoded again.
        """
        first_chunk = min(held_token_count, len(tokens)) // CHUNK_TOKEN_COUNT
        chunk_count = 0
        fault: str | None = None
        keys: list[bytes] = []
        try:
            keys = self._client.prefix_keys(self.layout_id, tokens, CHUNK_TOKEN_COUNT)
            for _ in self._restored_chunks(sequence, keys, first_chunk):
                chunk_count += 1
        except Exception as error:  # a miss: the engine computes what is missing
            fault = _describe_fault("restore", error)
            if isinstance(error, MalformedState):
                self._delete(keys[first_chunk + chunk_count])
        restored_end = (first_chunk + chunk_count) * CHUNK_TOKEN_COUNT if chunk_count else 0
        present_end = self._functions.last_position(self._memory, sequence) + 1
        token_count = min(present_end, max(held_token_count, restored_end), len(tokens) - 1)
        token_count = max(0, token_count)
        self._functions.remove(self._memory, sequence, token_count, -1)
        return RestoreReport(token_count, chunk_count, chunk_count * self.chunk_byte_count, fault)

    def _restored_chunks(
        self, sequence: int, keys: Sequence[bytes], first_chunk: int
    ) -> Iterator[int]:
        """Restores chunk after chunk until one is absent; yields each when `sequence` has it."""
        window = max(1, FETCH_BYTE_COUNT_MAX // self.chunk_byte_count)
        for start in range(first_chunk, len(keys), window):
            with self._fetch(keys[start : start + window]) as (states, lease):
                for index, state in enumerate(states, start=start):
                    if state is None:
                        return
                    try:
                        self._write_chunk(sequence, index, state, lease)
                    except _LeaseEnded:
                        copy = self._client.get_many([keys[index]])[0]
                        if copy is None:
                            return
                        self._write_chunk(sequence, index, copy, None)
                    yield index

    @contextlib.contextmanager
    def _fetch(self, keys: Sequence[bytes]) -> Iterator[tuple[Sequence[Any], Any]]:
        """The chunks of these keys, None for absent ones, and the lease if they are in place."""
        with contextlib.ExitStack() as stack:
            try:
                lease = self._client.lease(keys)
                states = stack.enter_context(lease)
            except kvstore.Unsupported:
                lease = None
                states = self._client.get_many(keys)
            yield states, lease

    def _delete(self, key: bytes) -> None:
        """Removes a chunk that is no state of its layout, so that a good one can be saved."""
        try:
            self._client.delete([key])
        except Exception as error:
            _describe_fault("deleting a malformed chunk", error)

    def _read_chunk(self, sequence: int, index: int, state: bytearray) -> None:
        """Writes the state of a chunk of `sequence` into `state`; raises if misshapen."""
        functions = self._functions
        first_position = index * CHUNK_TOKEN_COUNT
        end_position = first_position + CHUNK_TOKEN_COUNT
        functions.remove(self._memory, self._scratch, -1, -1)
        functions.copy(self._memory, sequence, self._scratch, first_position, end_position)
        try:
            byte_count = functions.state_byte_count(self._context, self._scratch)
            if byte_count != len(state):
                raise MalformedState(f"chunk {index} has {byte_count} bytes, expected {len(state)}")
            with address_of(state) as address:
                functions.state_read(self._context, address, len(state), self._scratch)
        finally:
            functions.remove(self._memory, self._scratch, -1, -1)
        self.shape.check(state, first_position, CHUNK_TOKEN_COUNT)

    def _write_chunk(self, sequence: int, index: int, state: Any, lease: Any) -> None:
        """Replaces what `sequence` holds from this chunk on by a stored state."""
        functions = self._functions
        first_position = index * CHUNK_TOKEN_COUNT
        self.shape.check(state, first_position, CHUNK_TOKEN_COUNT)
        # Removed first, so that the chunk takes these cells: kernels sum in the order of the cells,
        # and another order is another rounding.
        functions.remove(self._memory, sequence, first_position, -1)
        try:
            with address_of(state) as address:
                taken = functions.state_write(self._context, address, len(state), self._scratch)
            if lease is not None and not lease.still_valid():
                raise _LeaseEnded
            if taken != len(state):
                raise EngineRefusal(f"the engine refuses chunk {index}; has it free cells?")
            functions.copy(self._memory, self._scratch, sequence, -1, -1)
        finally:
            functions.remove(self._memory, self._scratch, -1, -1)

    def _learn_shape(self) -> StateShape:
        functions = self._functions
        functions.remove(self._memory, self._scratch, -1, -1)
        status = functions.decode_one(self._context, 0, 0, self._scratch)
        if status != 0:
            raise UnsupportedEngine(
                f"decoding one token answers {status}: no free cell, or no text model"
            )
        try:
            state = bytearray(functions.state_byte_count(self._context, self._scratch))
            with address_of(state) as address:
                functions.state_read(self._context, address, len(state), self._scratch)
            return StateShape.learn(state)
        except MalformedState as error:
            raise UnsupportedEngine(str(error)) from error
        finally:
            functions.remove(self._memory, self._scratch, -1, -1)

    def _describe(
        self, library: ctypes.CDLL, identity: EngineIdentity
    ) -> dict[str, str | int | float]:
        description: dict[str, str | int | float] = {
            "engine": "llama.cpp",
            "engine_build": identity.engine_build or engine_build(library),
            "model_digest": identity.model_digest,
            "modifications": identity.modifications,
            "chunk_tokens": CHUNK_TOKEN_COUNT,
            "context_beyond_original": self._functions.context_beyond_original(self._context),
            **self.shape.description(),
            **self._describe_tensor(identity),
        }
        for name, value in identity.rope.items():
            description[name] = value
        return description

    def _describe_tensor(self, identity: EngineIdentity) -> dict[str, str | int | float]:
        """What the codec needs to know; without it chunks are packed as opaque bytes."""
        functions = self._functions
        fields: dict[str, str | int | float] = {
            **self.shape.tensor_description(functions.head_count(self._context))
        }
        pairing = functions.rope_pairing(self._context)
        architecture = functions.metadata(self._context, "")
        if not fields or not pairing or architecture in _UNEVENLY_TURNED:
            return fields
        head_dim = int(fields["head_dim"])
        given_base = float(identity.rope.get("rope_freq_base", 0))
        try:
            model_base = float(functions.metadata(self._context, "rope.freq_base") or 10_000)
            turning = int(functions.metadata(self._context, "rope.dimension_count") or head_dim)
            scaling = self._rope_scaling(identity)
        except ValueError:  # a model whose metadata is no number
            return fields
        if turning != head_dim and fields.get("value_dim", head_dim) != head_dim:
            return fields  # one latent vector per token: which of its channels turn is not told
        fields |= {"rope_theta": given_base or model_base, "rope_pairing": pairing}
        if turning != head_dim:
            fields["rope_dim"] = turning
        if scaling != "none":
            fields["rope_scaling"] = scaling
        return fields

    def _rope_scaling(self, identity: EngineIdentity) -> str:
        """`none` if frequencies are those of their base alone."""
        if identity.has_rope_factors:
            return "factors"
        metadata = self._functions.metadata
        of_model = metadata(self._context, "rope.scaling.type") or "linear"
        kind = _ROPE_SCALINGS.get(int(identity.rope.get("rope_scaling_type", -1)), of_model)
        factor = float(metadata(self._context, "rope.scaling.factor") or 1)
        scale = float(identity.rope.get("rope_freq_scale", 0)) or 1 / (factor or 1)
        return "none" if kind == "linear" and scale == 1 else kind


def model_digest(*paths: str | Path) -> str:
    """`sha256:…` of the model's GGUF files, in order.

    Reading a large model takes a while, so the digest is remembered under `$XDG_CACHE_HOME/kvstore`
    for this file name, inode, size and time of change.
    """
    digests = [_file_digest(Path(path).resolve()) for path in paths]
    joined = (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
    return f"sha256:{joined}"


def engine_build(library: ctypes.CDLL) -> str:
    """Which llama.cpp this is: its versions and commit; its file's digest if it knows no commit."""
    names = []
    for function_name in ("llama_version", "ggml_version", "ggml_commit"):
        function = getattr(library, function_name, None)
        names.append("unknown")
        if function is not None:
            names[-1] = ctypes.CFUNCTYPE(ctypes.c_char_p)((function_name, library))().decode()
    if "unknown" in names:
        names.append(_file_digest(Path(library._name).resolve()))
    return " ".join(names)


def _has_rope_factors(path: Path) -> bool:
    """Whether a GGUF file has a tensor of RoPE factors, by the names at its beginning."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(
            content.find(name, 0, _GGUF_HEADER_BYTE_COUNT_MAX) >= 0 for name in _ROPE_FACTOR_NAMES
        )


def _file_digest(path: Path) -> str:
    status = path.stat()
    identity = (
        f"{path}\n{status.st_ino}\n{status.st_size}\n{status.st_mtime_ns}\n{status.st_ctime_ns}"
    )
    folder = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvstore" / "digests"
    )
    remembered = folder / hashlib.sha256(identity.encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        text = remembered.read_text()
        if len(bytes.fromhex(text)) == 32:
            return text
    with path.open("rb") as file:
        hasher = hashlib.sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    digest = hasher.hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        folder.mkdir(parents=True, exist_ok=True)
        temporary = remembered.with_suffix(f".{os.getpid()}")
        temporary.write_text(digest)
        temporary.replace(remembered)
    return digest


def _describe_fault(operation: str, error: Exception) -> str:
    fault = f"{type(error).__name__}: {error}"
    _log.warning("kvstore: %s stopped, the engine goes on without: %s", operation, fault)
    return fault
