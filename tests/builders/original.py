"""The published models written down a second time, plainly: functions over a state dict, in double precision, one utterance
at a time, without padding, without any module of the package under test.

Sources: the papers (FV2ES; MME2E, Dai et al. 2021; NesT, Zhang et al. 2022; RepVGG, Ding et al. 2021; ALBERT, Lan et al. 2020) and the
layouts of the published state dicts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What a state dict does not show."""

    nest: tuple[int, ...]
    over_time: int
    text: int
    text_layers: int


class Original:
    """Logits of a state dict."""

    def __init__(self, state: dict[str, Tensor], heads: Heads) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}
        self.heads = heads

    def has(self, prefix: str) -> bool:
        return any(name.startswith(f"{prefix}.") for name in self.state)

    def linear(self, x: Tensor, name: str) -> Tensor:
        y = x @ self.state[f"{name}.weight"].T
        return y + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else y

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + eps)
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def conv(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return functional.conv2d(x, weight, self.state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            self.state[f"{name}.{kind}"][:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def block(self, x: Tensor, name: str) -> Tensor:
        """RepVGG in either form, or VGG."""
        if self.has(f"{name}.rbr_reparam"):
            return self.conv(x, f"{name}.rbr_reparam").relu()
        if self.has(f"{name}.conv1"):
            x = self.batch_norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
            return self.batch_norm(self.conv(x, f"{name}.conv2"), f"{name}.bn2").relu()
        y = self.batch_norm(self.conv(x, f"{name}.rbr_dense.conv"), f"{name}.rbr_dense.bn")
        y = y + self.batch_norm(self.conv(x, f"{name}.rbr_1x1.conv"), f"{name}.rbr_1x1.bn")
        if self.has(f"{name}.rbr_identity"):
            y = y + self.batch_norm(x, f"{name}.rbr_identity")
        return y.relu()

    def convolutions(self, x: Tensor, name: str) -> Tensor:
        """A stem, then blocks at their positions; positions between and after them are poolings."""
        x = functional.max_pool2d(self.batch_norm(self.conv(x, f"{name}.0"), f"{name}.1").relu(), 2)
        last = max(int(key.split(".")[1]) for key in self.state if key.startswith(f"{name}."))
        for position in range(4, last + 2):
            here = f"{name}.{position}"
            x = self.block(x, here) if self.has(here) else functional.max_pool2d(x, 2)
        return x

    def flatten(self, x: Tensor, name: str) -> Tensor:
        return self.linear(self.linear(x.reshape(len(x), -1), f"{name}.0").relu(), f"{name}.2")

    def faces(self, faces: Tensor) -> Tensor:
        """[N, 48, 48, 3] uint8 RGB -> [N, dim]."""
        x = (faces.double() - torch.tensor([159.0, 111, 102])) / torch.tensor([37.0, 33, 32])
        return self.flatten(self.convolutions(x.permute(0, 3, 1, 2), "V"), "v_flatten")

    def pieces(self, pieces: Tensor) -> Tensor:
        """[M, 4, 32, 32], channel c holds mels 32 c to 32 c + 31 -> [M, dim]."""
        x = pieces.double()
        if self.has("A.0.levels"):
            return self.flatten(self.nest(x), "a_flatten")
        spectrum = torch.stack([x[:, mel // 32, mel % 32] for mel in range(128)], dim=1)  # [M, 128, 32]
        return self.flatten(self.convolutions(spectrum[:, None], "A"), "a_flatten")

    def nest(self, x: Tensor) -> Tensor:
        x = self.conv(x, "A.0.patch_embed.proj")  # [M, dim, 32, 32]
        for level, heads in enumerate(self.heads.nest):
            name = f"A.0.levels.{level}"
            if level:
                x = self.conv(x, f"{name}.pool.conv").permute(0, 2, 3, 1)
                x = self.norm(x, f"{name}.pool.norm", 1e-6).permute(0, 3, 1, 2)
                x = functional.max_pool2d(x, 3, stride=2, padding=1)
            out = torch.empty_like(x)
            grid = x.shape[-1] // 8
            for place in range(grid * grid):
                rows, columns = (slice(8 * number, 8 * number + 8) for number in divmod(place, grid))
                tokens = x[:, :, rows, columns].flatten(2).transpose(1, 2)  # [M, 64, dim]
                tokens = tokens + self.state[f"{name}.pos_embed"][0, place]
                layer = 0
                while self.has(f"{name}.transformer_encoder.{layer}"):
                    tokens = self.nest_layer(tokens, f"{name}.transformer_encoder.{layer}", heads)
                    layer += 1
                out[:, :, rows, columns] = tokens.transpose(1, 2).reshape(len(x), -1, 8, 8)
            x = out
        return self.norm(x.permute(0, 2, 3, 1), "A.0.norm", 1e-6).permute(0, 3, 1, 2)

    def nest_layer(self, x: Tensor, name: str, heads: int) -> Tensor:
        query, key, value = self.linear(self.norm(x, f"{name}.norm1", 1e-6), f"{name}.attn.qkv").chunk(3, dim=-1)
        mixed = torch.stack(list(self.each_head(query, key, value, heads)), dim=-1)  # the head is the fastest axis
        x = x + self.linear(mixed.flatten(-2), f"{name}.attn.proj")
        inner = self.linear(self.norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp.fc1")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        return x + self.linear(inner, f"{name}.mlp.fc2")

    @staticmethod
    def each_head(query: Tensor, key: Tensor, value: Tensor, heads: int):
        """Attention [..., tokens, dim] of each head: [..., tokens, dim / heads]."""
        width = query.shape[-1] // heads
        for head in range(heads):
            q, k, v = (part[..., head * width : (head + 1) * width] for part in (query, key, value))
            yield torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width), dim=-1) @ v

    def over_time(self, x: Tensor, name: str) -> Tensor:
        """[N, dim] -> [dim]: a learned row in front, post-norm layers, the answer at that row."""
        x = torch.cat([self.state[f"{name}.cls_emb.weight"], x])
        layer = 0
        while self.has(f"{name}.encoder.layers.{layer}"):
            here = f"{name}.encoder.layers.{layer}"
            projected = (
                x @ self.state[f"{here}.self_attn.in_proj_weight"].T + self.state[f"{here}.self_attn.in_proj_bias"]
            )
            mixed = torch.cat(list(self.each_head(*projected.chunk(3, dim=-1), self.heads.over_time)), dim=-1)
            x = self.norm(x + self.linear(mixed, f"{here}.self_attn.out_proj"), f"{here}.norm1", 1e-5)
            inner = self.linear(self.linear(x, f"{here}.linear1").relu(), f"{here}.linear2")
            x = self.norm(x + inner, f"{here}.norm2", 1e-5)
            layer += 1
        return x[0]

    def words(self, ids: Tensor) -> Tensor:
        """ALBERT: [L] token numbers -> [hidden], the last hidden state at the first token."""
        table, name = "T.albert.embeddings", "T.albert.encoder"
        x = self.state[f"{table}.word_embeddings.weight"][ids]
        x = x + self.state[f"{table}.position_embeddings.weight"][: len(ids)]
        x = x + self.state[f"{table}.token_type_embeddings.weight"][0]
        x = self.linear(self.norm(x, f"{table}.LayerNorm", 1e-12), f"{name}.embedding_hidden_mapping_in")
        name = f"{name}.albert_layer_groups.0.albert_layers.0"
        for _ in range(self.heads.text_layers):  # the same weights each time
            parts = (self.linear(x, f"{name}.attention.{part}") for part in ("query", "key", "value"))
            mixed = torch.cat(list(self.each_head(*parts, self.heads.text)), dim=-1)
            x = self.norm(x + self.linear(mixed, f"{name}.attention.dense"), f"{name}.attention.LayerNorm", 1e-12)
            inner = self.linear(x, f"{name}.ffn")
            inner = inner / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
            x = self.norm(x + self.linear(inner, f"{name}.ffn_output"), f"{name}.full_layer_layer_norm", 1e-12)
        return x[0]

    def logits(self, ids: Tensor | None, faces: Tensor | None, pieces: Tensor | None) -> Tensor:
        """[C] of one utterance; a modality that is None adds nothing."""
        weights = self.state["weighted_fusion.weight"][0]  # text, visual, acoustic
        total = torch.zeros(len(self.state["v_out.bias"]), dtype=torch.float64)
        if ids is not None:
            total += weights[0] * self.linear(self.words(ids), "t_out")
        if faces is not None:
            total += weights[1] * self.linear(self.over_time(self.faces(faces), "v_transformer"), "v_out")
        if pieces is not None:
            total += weights[2] * self.linear(self.over_time(self.pieces(pieces), "a_transformer"), "a_out")
        return total
