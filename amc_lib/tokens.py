"""Token ids of phrases: cleaning, WordPiece tokens (BERT's), corruption for masked language modelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MAX_WORDS = 50  # of a cleaned phrase in training (PROTOCOL, Finetuning)
IGNORED = -100  # label of a position that takes no MLM loss


def clean(phrase: str, max_words: int = MAX_WORDS) -> str:
    """A phrase in lower case without punctuation, as the authors' loaders clean captions (PROTOCOL, Finetuning).

    Raises ValueError where no word is left, and for what is no text (a lone surrogate, such as bytes of another
    encoding become on the command line).
    """
    if any(unicodedata.category(c) == "Cs" for c in phrase):
        raise ValueError(f"the phrase {phrase!r:.80} holds bytes that are no text: write it in UTF-8")
    text = re.sub(r"[,.'!?\"()*#:;~]", "", phrase.lower())
    words = text.replace("-", " ").replace("/", " ").replace("<person>", "person").split()
    if not words:
        raise ValueError(f"the phrase {phrase!r:.80} has no words")
    return " ".join(words[:max_words])


def word_vocabulary(words: Iterable[str]) -> list[str]:
    """A WordPiece vocabulary of whole words, with single characters as pieces of any word outside it."""
    known = sorted(set(words) - set(CHARACTERS))
    return [*SPECIAL, *CHARACTERS, *(f"##{character}" for character in CHARACTERS), *known]


class Tokenizer:
    """A WordPiece vocabulary with BERT's special tokens, which turns phrases into right-padded ids."""

    def __init__(self, vocabulary: Sequence[str], max_tokens: int) -> None:
        missing = [token for token in SPECIAL if token not in vocabulary]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}")
        self.vocabulary = tuple(vocabulary)
        self.max_tokens = max_tokens
        self._wordpiece = BertWordPieceTokenizer({token: i for i, token in enumerate(vocabulary)})
        self._pad, _, self._cls, self._sep, self._mask = map(self._wordpiece.token_to_id, SPECIAL)

    def __call__(self, phrases: Sequence[str], max_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """input_ids and attention_mask, int64 [B, L]; L is the longest phrase's length, at most `max_tokens`.

        Training cuts to the tokenizer's own `max_tokens`, evaluation to what the model has positions for.
        """
        most = max_tokens or self.max_tokens
        rows = [encoding.ids for encoding in self._wordpiece.encode_batch([clean(phrase) for phrase in phrases])]
        rows = [row if len(row) <= most else [*row[: most - 1], self._sep] for row in rows]
        longest = max(map(len, rows), default=0)
        ids = [row + [self._pad] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)

    def tokens(self, phrase: str, max_tokens: int | None = None) -> list[str]:
        """The tokens of one phrase as text, [CLS] and [SEP] included."""
        return [self._wordpiece.id_to_token(i) for i in self([phrase], max_tokens)[0][0].tolist()]

    def corrupt(self, input_ids: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Corrupted ids and labels [B, L]: each token but [PAD] and [CLS] is chosen with `probability`.

        Of the chosen, 80 % become [MASK], 10 % a token drawn from the whole vocabulary, 10 % stay (as in ALBEF, which
        does not spare [SEP]). Labels are `IGNORED` where nothing was chosen.
        """

        def chance(share: float) -> Tensor:
            return torch.rand(input_ids.shape, generator=generator) < share

        special = (input_ids == self._pad) | (input_ids == self._cls)
        chosen = chance(probability) & ~special
        labels = input_ids.masked_fill(~chosen, IGNORED)
        masked = chosen & chance(0.8)
        replaced = chosen & ~masked & chance(0.5)
        random_ids = torch.randint(len(self.vocabulary), input_ids.shape, generator=generator)
        corrupted = input_ids.masked_fill(masked, self._mask)
        return torch.where(replaced, random_ids, corrupted), labels
