# SPDX-License-Identifier: Apache-2.0
"""Where the values of a KV tensor stand in a payload: docs/container-format.md, section 3."""

import hashlib
import re

import numpy

CHUNK_BYTES_MAX = 1 << 28
TYPES = {"float16": 1, "bfloat16": 2, "float32": 3, "float8_e4m3": 4, "float8_e4m3fn": 4,
         "float8_e5m2": 5}
WIDTHS = {1: 2, 2: 2, 3: 4, 4: 1, 5: 1}
K, V = 0, 1


class Fault(Exception):
    """Its text is a word of the format's section 14."""


def require(condition, word):
    if not condition:
        raise Fault(word)


def layout_id(description):
    return hashlib.sha256(description).digest()[:16]


def fields_of(description):
    """The fields of a canonical description; raises ValueError for any other bytes."""
    text = description.decode("utf-8")
    lines = text.split("\n")
    if lines.pop() != "" or not lines or lines[0] != "kvstore_layout=1" or "\r" in text:
        raise ValueError("not canonical")
    names = []
    fields = {}
    for line in lines[1:]:
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch("[a-z0-9_]+", name) or name == "kvstore_layout":
            raise ValueError(line)
        names.append(name)
        fields[name] = value
    if names != sorted(set(names)):
        raise ValueError("order of names")
    return fields


def number(fields, name, low, high, default=None):
    if name not in fields:
        if default is None:
            raise ValueError(name)
        return default
    value = int(fields[name])
    if str(value) != fields[name] or not low <= value <= high:
        raise ValueError(name)
    return value


def axes_of(text):
    """The axes on the way to K and to V; for V None when there is no V."""
    outer, parenthesis, inner = text.partition("(")
    outer = outer.split(",")
    if parenthesis:
        if not inner.endswith(")") or outer[-1] != "kv" or inner.count("|") != 1:
            raise ValueError(text)
        keys, values = (outer + part.split(",") for part in inner[:-1].split("|"))
    else:
        keys, values = outer, outer if "kv" in outer else None
    for axes in (keys, values):
        if axes is None:
            continue
        known = {"layer", "kv", "block", "token", "head", "channel"}
        if len(set(axes)) != len(axes) or not set(axes) <= known:
            raise ValueError(text)
        if not {"layer", "token", "channel"} <= set(axes):
            raise ValueError(text)
        if "block" in axes and axes.index("block") > axes.index("token"):
            raise ValueError(text)
    if values is not None and ("block" in keys) != ("block" in values):
        raise ValueError(text)
    return keys, values


class Layout:
    """A description's tensor; raises ValueError when it has none."""

    def __init__(self, description):
        fields = self.fields = fields_of(description)
        self.id = layout_id(description)
        if not {"dtype", "axes"} <= fields.keys() or fields["dtype"] not in TYPES:
            raise ValueError("dtype or axes")
        self.type = TYPES[fields["dtype"]]
        self.width = WIDTHS[self.type]
        self.axes = axes_of(fields["axes"])
        self.layers = number(fields, "layers", 1, 4_096)
        self.heads = number(fields, "kv_heads", 1, 65_536, 1)
        channels = number(fields, "head_dim", 1, 65_536)
        self.channels = [channels, number(fields, "value_dim", 1, 65_536, channels)]
        if self.heads * max(self.channels) > 65_536:
            raise ValueError("columns")
        if self.heads > 1 and any("head" not in axes for axes in self.axes if axes is not None):
            raise ValueError("kv_heads")
        has_blocks = "block" in self.axes[K]
        self.block = number(
            fields, "block_tokens", 1, 1 << 20, None if has_blocks else 0) if has_blocks else 0
        self.lead = number(fields, "lead_bytes", 0, CHUNK_BYTES_MAX, 0)
        self.lead_per_token = number(fields, "lead_bytes_per_token", 0, 65_536, 0)
        self.section_lead = number(fields, "section_lead_bytes", 0, 65_536, 0)
        self.kinds = [K] if self.axes[V] is None else [K, V]
        outermost = {"layer"} if self.kinds == [K] else {"layer", "kv"}
        if self.section_lead and any(
                set(self.axes[kind][:len(outermost)]) != outermost for kind in self.kinds):
            raise ValueError("section_lead_bytes")

    def columns(self, kind):
        return self.heads * self.channels[kind]

    def token_count(self, payload_byte_count):
        """T, or None when the payload does not fit."""
        values = self.layers * sum(self.columns(kind) for kind in self.kinds)
        per_token = self.lead_per_token + values * self.width
        fixed = self.lead + self.section_lead * self.layers * len(self.kinds)
        count, rest = divmod(payload_byte_count - fixed, per_token)
        fits = (rest == 0 and 1 <= count <= 1 << 20
                and count * max(self.columns(kind) for kind in self.kinds) <= 1 << 22
                and (not self.block or count % self.block == 0))
        return count if fits else None

    def sizes(self, kind, tokens):
        return {"layer": self.layers, "head": self.heads, "channel": self.channels[kind],
                "block": tokens // self.block if self.block else 1,
                "token": self.block or tokens}

    def places(self, tokens):
        """{kind: byte places as an array [layer, token, head, channel]} and the rest's places."""
        steps, sizes = self._walk(tokens)
        found = {}
        for kind in self.kinds:
            start, strides = steps[kind]
            count = sizes[kind]
            index = numpy.arange(tokens)
            block = self.block or tokens
            token = ((index // block) * strides.get("block", 0)
                     + (index % block) * strides["token"])
            found[kind] = (
                start + numpy.arange(self.layers)[:, None, None, None] * strides["layer"]
                + token[None, :, None, None]
                + numpy.arange(self.heads)[None, None, :, None] * strides.get("head", 0)
                + numpy.arange(count["channel"])[None, None, None, :] * strides["channel"])
        return found

    def _walk(self, tokens):
        sizes = {kind: self.sizes(kind, tokens) for kind in self.kinds}
        steps = {}
        for kind in self.kinds:
            steps[kind] = self._steps(kind, sizes)
        lead = self.lead + self.lead_per_token * tokens
        return {kind: (start + lead, strides)
                for kind, (start, strides) in steps.items()}, sizes

    def _inside(self, kind, depth, sizes):
        """Bytes of all that stands inside the axis at `depth`, leads included."""
        size = self.width
        for at in range(len(self.axes[kind]) - 1, depth, -1):
            if at == len(self.kinds) - 1:
                size += self.section_lead
            axis = self.axes[kind][at]
            if axis == "kv":
                size = sum(self._inside(each, at, sizes) for each in self.kinds)
            else:
                size *= sizes[kind][axis]
        return size + (self.section_lead if depth == len(self.kinds) - 1 else 0)

    def _steps(self, kind, sizes):
        start, strides = self.section_lead, {}
        for depth, axis in enumerate(self.axes[kind]):
            if axis == "kv":
                start += self._inside(K, depth, sizes) if kind == V else 0
            else:
                strides[axis] = self._inside(kind, depth, sizes)
        return start, strides
