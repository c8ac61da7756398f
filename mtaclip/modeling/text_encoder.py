"""The paper's "Mask-Text Prompt Learning": class texts read by CLIP's frozen text tower behind learned contexts.

Letters: n contexts (prompts) of c learned vectors, K texts (C classes and the no-object text), t tokens of a class
text, W width of the text tower, D width of CLIP's embedding space.
"""

from collections.abc import Sequence

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn


def tokenize(texts: Sequence[str], length: int) -> Tensor:
    """CLIP's byte-pair tokens of every text, (K, length) int64: start, text, end, zeros.

    Raises:
        ValueError: a text has more than length - 2 tokens.
    """
    tokenizer = SimpleTokenizer()
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        ids = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        if len(ids) > length:
            raise ValueError(
                f"Class text {text!r} has {len(ids) - 2} tokens, the budget is {length - 2}: shorten it in the "
                f"vocabulary or set MODEL.MTACLIP.TEXT.TOKEN_LENGTH to at least {len(ids)}."
            )
        row[: len(ids)] = torch.tensor(ids)
    return tokens


class CLIPTextEncoder(nn.Module):
    """CLIP's text tower, frozen, reading [start, context, class tokens, end].

    Args:
        clip: an open_clip CLIP model; its text modules are taken over.
        length: longest sequence, contexts included; CLIP's position table is cut to it.
    """

    def __init__(self, clip: nn.Module, length: int) -> None:
        super().__init__()
        if not isinstance(getattr(clip, "text_projection", None), Tensor):
            raise ValueError("MODEL.CLIP.ARCH: only models with OpenAI's text tower can read prompts.")
        table = clip.positional_embedding
        if length > len(table):
            raise ValueError(
                f"MODEL.MTACLIP.TEXT: CONTEXT_LENGTH + TOKEN_LENGTH is {length}, CLIP's text tower reads {len(table)}."
            )
        self.token_embedding = clip.token_embedding
        self.positional_embedding = nn.Parameter(table.detach()[:length].clone())
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.register_buffer("causal_mask", torch.full((length, length), -torch.inf).triu(1), persistent=False)
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        """Width W of the token embeddings."""
        return self.token_embedding.embedding_dim

    @property
    def embed_dim(self) -> int:
        """Width D of the text embeddings."""
        return self.text_projection.shape[1]

    def forward(self, contexts: Tensor, tokens: Tensor) -> Tensor:
        """Embed every text behind every context.

        Args:
            contexts: (n, c, W) learned vectors, put between the start token and the class tokens.
            tokens: (K, t) ids from `tokenize`; the end token has the highest id.

        Returns:
            (n, K, D) embeddings, not normalised, read at the end token.
        """
        num_contexts, context_length, width = contexts.shape
        num_texts, token_length = tokens.shape
        words = self.token_embedding(tokens).expand(num_contexts, -1, -1, -1)
        prompts = contexts[:, None].expand(-1, num_texts, -1, -1)
        x = torch.cat([words[:, :, :1], prompts, words[:, :, 1:]], dim=2).flatten(0, 1)
        length = context_length + token_length
        x = x + self.positional_embedding[:length]
        x = self.transformer(x, attn_mask=self.causal_mask[:length, :length])
        end = (tokens.argmax(dim=-1) + context_length).repeat(num_contexts)
        x = self.ln_final(x[torch.arange(len(x), device=x.device), end])
        return (x @ self.text_projection).view(num_contexts, num_texts, -1)


class PromptedTexts(nn.Module):
    """Learned contexts and the class texts they introduce.

    In training the embeddings are computed at every call, with gradients into the contexts. In eval mode without
    gradients they are computed once, in float32, and kept until `train()`, `eval()`, a move to another device,
    a loaded state or another vocabulary.

    Args:
        encoder: the frozen text tower.
        texts: the K class texts, the no-object text last.
        num_contexts: number n of contexts.
        context_length: learned vectors c in a context.
        token_length: tokens t of a class text, start and end included.
    """

    def __init__(
        self,
        encoder: CLIPTextEncoder,
        texts: Sequence[str],
        *,
        num_contexts: int,
        context_length: int,
        token_length: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.token_length = token_length
        self.contexts = nn.Parameter(torch.empty(num_contexts, context_length, encoder.width))
        nn.init.trunc_normal_(self.contexts)
        self.set_texts(texts)

    def set_texts(self, texts: Sequence[str]) -> None:
        """Read other class texts from now on.

        Args:
            texts: the K class texts, the no-object text last.

        Raises:
            ValueError: a text is too long.
        """
        tokens = tokenize(texts, self.token_length).to(self.contexts.device)
        self.register_buffer("tokens", tokens, persistent=False)
        self._cached: Tensor | None = None

    def train(self, mode: bool = True) -> "PromptedTexts":
        """Switch the mode and forget the kept embeddings."""
        self._cached = None
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs) -> "PromptedTexts":
        self._cached = None
        return super()._apply(fn, *args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._cached = None
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self) -> Tensor:
        """Text embeddings of every context and class, (n, K, D), not normalised."""
        if self.training or torch.is_grad_enabled():
            return self.encoder(self.contexts, self.tokens)
        if self._cached is None:
            with torch.autocast(self.contexts.device.type, enabled=False):
                self._cached = self.encoder(self.contexts, self.tokens)
        return self._cached
