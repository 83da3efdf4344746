"""The text branch: a `transformers` encoder, its first token, a linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from fv2es_builders.modules.temporal import MASKED
from fv2es_builders.presets import TextSize


def _transformer(size: TextSize) -> nn.Module:
    from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel

    # "eager": plain matrix products and a softmax, which every engine's graph optimiser knows.
    config = {**size.config, "attn_implementation": "eager"}
    if config.get("hidden_act") == "gelu_new":
        config["hidden_act"] = "gelu_pytorch_tanh"  # the same function, one node of the graph instead of eight
    if size.kind == "albert":
        albert: nn.Module = AlbertModel(AlbertConfig(**config))
        return albert
    bert: nn.Module = BertModel(BertConfig(**config))
    return bert


class TextEncoder(nn.Module):
    """Tokens to one vector. The transformer stands under its own name (`albert`, `bert`), as in the published checkpoints."""

    def __init__(self, size: TextSize) -> None:
        super().__init__()
        self.kind = size.kind
        self.add_module(size.kind, _transformer(size))

    @property
    def transformer(self) -> nn.Module:
        """The encoder itself."""
        return self.get_submodule(self.kind)

    @property
    def config(self) -> Any:
        """The configuration that `transformers` keeps."""
        return self.transformer.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The last hidden state at the first token.

        Args:
            input_ids: [U, L] int64 token numbers.
            attention_mask: [U, L] int64, 1 at tokens, 0 at padding; a row of zeros gives a finite vector.

        Returns:
            [U, hidden] float32.
        """
        # The mask is given in its final form, [U, 1, 1, L]: then nothing in the graph depends on how `transformers` makes it.
        dtype = next(self.parameters()).dtype
        bias = ((1 - attention_mask).to(dtype) * MASKED)[:, None, None, :]
        # All tokens are of the first type: one row that is broadcast, a constant of the graph.
        first_type = torch.zeros(1, 1, dtype=torch.int64, device=input_ids.device)
        answer = self.transformer(input_ids=input_ids, attention_mask=bias, token_type_ids=first_type)
        hidden: Tensor = answer.last_hidden_state  # [U, L, hidden]
        return hidden[:, 0]


class TextBranch(nn.Module):
    """Tokens to logits. Shares its layers with the model it is made from."""

    def __init__(self, encoder: TextEncoder, out: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.out = encoder, out

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the text branch: [U, L] int64, [U, L] int64 -> [U, C] float32."""
        logits: Tensor = self.out(self.encoder(input_ids, attention_mask))
        return logits


@torch.no_grad()
def load_encoder(encoder: TextEncoder, weights: dict[str, Tensor]) -> None:
    """Put pretrained weights into the transformer.

    Args:
        encoder: gets them.
        weights: by the transformer's own parameter names. A buffer of positions, which older files hold, is ignored.

    Raises:
        RuntimeError: a name is missing or unknown, or a shape differs.
    """
    kept = {name: tensor for name, tensor in weights.items() if name != "embeddings.position_ids"}
    encoder.transformer.load_state_dict(kept, strict=True)
