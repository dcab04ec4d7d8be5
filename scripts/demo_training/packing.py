"""One image, many questions: the visual prefix is paid once for about a dozen of them.

Each image's row is `<s> USER: ` + visual tokens + question blocks. A block sees the prefix and
itself only, and its positions restart right after the prefix, so every block is computed exactly
as if it were the only question.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from scripts.demo_training.prompts import Exchange, chat
from scripts.demo_training.vision import attend

MASKED = -1e4
END_WEIGHT = 0.1  # of a short answer's end in the loss


@dataclass(frozen=True)
class Pack:
    """T text tokens per image. `target` -100 where nothing is predicted."""

    tokens: Tensor  # (B, T)
    offsets: Tensor  # (B, T) position after the prefix
    mask: Tensor  # (B, 1, T, T) additive
    target: Tensor  # (B, T)
    weight: Tensor  # (B, T) of the loss
    first: list[tuple[int, int, int]]  # image, place of the first answer token, number of exchange
    options: list[tuple[int, int, bool]]  # image, place where an option ends, whether it is right


class Packer:
    """Tokenises blocks; caches repeated prompts' pieces through the tokenizer itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self.letters = {tokenizer.encode(x, add_special_tokens=False)[0]: x for x in "ABCDE"}
        self.breaks = {tokenizer.encode(x, add_special_tokens=False)[0] for x in ("\n", "\n\n")}
        ids = tokenizer.encode(chat(""))
        self.prefix = torch.tensor(ids[: ids.index(self.image)])

    def block(self, exchange: Exchange) -> tuple[list[int], list[int]]:
        """Token ids of the question (after the image) and of the answer with its end."""
        text = chat(exchange.prompt).split("<image>")[1]
        question = self.tokenizer.encode(text, add_special_tokens=False)
        answer = self.tokenizer.encode(" " + exchange.answer, add_special_tokens=False)
        return question, [*answer, self.tokenizer.eos_token_id]

    def option_ends(self, question: list[int]) -> dict[str, int]:
        """Letter -> place of the last token of its option, for a question with options."""
        ends = {}
        for place in range(1, len(question)):
            if question[place] in self.letters and question[place - 1] in self.breaks:
                end = place
                while question[end + 1] not in self.breaks:
                    end += 1
                ends[self.letters[question[place]]] = end
        return ends

    def pack(
        self, exchanges: list[list[Exchange]], dtype: torch.dtype, caption_weight: float = 0.0
    ) -> Pack:
        rows, first, options = [], [], []
        for image, asked in enumerate(exchanges):
            row: list[tuple[int, int, int, int, float]] = []  # token, offset, block, target, weight
            for number, exchange in enumerate(asked):
                question, answer = self.block(exchange)
                sequence = question + answer
                targets = [-100] * (len(question) - 1) + answer
                caption = exchange.benchmark == "chair"
                each, end = (caption_weight, caption_weight) if caption else (1.0, END_WEIGHT)
                weights = [0.0] * (len(question) - 1) + [each] * (len(answer) - 1) + [end]
                first.append((image, len(row) + len(question) - 1, number))
                if exchange.answer in "ABCDE":
                    options += [
                        (image, len(row) + end, letter == exchange.answer)
                        for letter, end in self.option_ends(question).items()
                    ]
                blocks = zip(sequence[:-1], targets, weights, strict=True)
                row += [(t, place, number, y, w) for place, (t, y, w) in enumerate(blocks)]
            rows.append(row)
        length = max(len(row) for row in rows)
        filler = (0, 0, -1, -100, 0.0)
        padded = [row + [filler] * (length - len(row)) for row in rows]
        tokens, offsets, block, target, weight = torch.tensor(padded, dtype=torch.double).unbind(-1)
        seen = (block[:, :, None] == block[:, None, :]) & torch.ones(length, length).tril().bool()
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, MASKED)[:, None]
        return Pack(
            tokens.long(), offsets.long(), mask, target.long(), weight.float(), first, options
        )


def decode_layers(
    language: nn.Module,
    heads: int,
    prefix: Tensor,
    visual: Tensor,
    pack: Pack,
    taps: tuple[int, ...] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Run the Llama over packed rows.

    Args:
        language: LlamaModel.
        heads: its attention heads.
        prefix: token ids before the image, (P,).
        visual: projected visual tokens, (B, K, D).
        pack: the questions.
        taps: also return the text's input of these layers.

    Returns:
        Final states of the text (B, T, D), and the tapped ones.
    """
    batch = len(visual)
    before = language.embed_tokens(prefix).expand(batch, -1, -1)
    hidden = torch.cat([before, visual, language.embed_tokens(pack.tokens)], 1)
    length, start = hidden.shape[1], len(prefix) + visual.shape[1]
    positions = torch.cat([torch.arange(start).expand(batch, -1), start + pack.offsets], 1)
    cos, sin = (part[:, None] for part in language.rotary_emb(hidden, positions))
    causal = torch.full((start, start), MASKED, dtype=hidden.dtype).triu(1)
    open_prefix = torch.zeros(batch, 1, length - start, start, dtype=hidden.dtype)
    text_mask = torch.cat([open_prefix, pack.mask], -1)
    tapped = []
    for index, layer in enumerate(language.layers):
        if index in taps:
            tapped.append(hidden[:, start:])
        normed, attention = layer.input_layernorm(hidden), layer.self_attn
        query, key, value = (
            projection(normed).view(batch, length, heads, -1).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = query * cos + _turn(query) * sin, key * cos + _turn(key) * sin
        head = attend(query[:, :, :start], key[:, :, :start], value[:, :, :start], causal)
        text = attend(query[:, :, start:], key, value, text_mask)
        mixed = torch.cat([head, text], 2).transpose(1, 2).reshape(batch, length, -1)
        hidden = hidden + attention.o_proj(mixed)
        normed, mlp = layer.post_attention_layernorm(hidden), layer.mlp
        hidden = hidden + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))
    return language.norm(hidden[:, start:]), tapped


def _turn(x: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat([-right, left], -1)
