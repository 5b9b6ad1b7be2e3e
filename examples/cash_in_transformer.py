"""The transformer of `cash_in.py`: a small OPT with a ReLU feed-forward, trained on the interpreter's English."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor, nn

import sparseout
from sparseout import regularizers
from sparseout.inference import drop_dead
from sparseout.studies.data import text

LEARNING_RATE, EVERY = 5e-4, 2
PROMPT = 16  # words of a prompt
TIMED = 2  # prompts that are continued


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Trains the transformer with one method to one fraction of zeros. It also has its test score and the call to time.

    All methods and fractions continue the same network, which was trained without a method, for equally many steps.

    Attributes:
        vocabulary: number of words; the rarer ones are <unk>.
        hidden_size, ffn_size, layers: the shape of the network.
        first_steps: steps of the common part.
        steps: steps with a method.
        batch: sequences of a step.
        length: words of a sequence.
        new_tokens: words to generate in a timed call.
    """

    vocabulary: int = 2000
    hidden_size: int = 512
    ffn_size: int = 8192
    layers: int = 2
    first_steps: int = 150
    steps: int = 100
    batch: int = 8
    length: int = 64
    new_tokens: int = 32

    name = "transformer"
    methods = ("sparseout", "l1", "k_winners")

    def build(self, method: str, seed: int) -> nn.Module:
        """Return the network with the layers of `method`, not trained."""
        network = self._opt(seed)
        if method == "none":
            return network
        readers = {block.activation_fn: block.fc2 for block in network.model.decoder.layers}
        layers = {
            "sparseout": lambda activation: sparseout.Sparseout(0.5, 1.5, scale="rms"),
            "l1": lambda activation: regularizers.L1(1e-5, reader=readers[activation]),
            "k_winners": lambda activation: regularizers.KWinners(1.0),
        }
        sparseout.insert_after(network, nn.ReLU, layers[method], inplace=True)
        return network

    def train(self, network: Any, method: str, zeros: float, seed: int) -> None:
        """Train the network, from the weights of the common part."""
        missing = network.load_state_dict(_common_part(self, seed), strict=False).missing_keys
        assert all(name.endswith("running_rms") for name in missing), missing
        if method == "none":
            self._train(network, self.steps, seed + 1)
            return
        target = sparseout.SparsityTarget(network, zeros, measure="zeros", every=EVERY)
        self._train(network, self.steps, seed + 1, target, has_penalty=method == "l1")
        target.stop()

    def _train(self, network: Any, steps: int, seed: int, target: Any = None, has_penalty: bool = False) -> None:
        words, drawn = self._corpus().train, torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=True)
        network.train()
        for _ in range(steps):
            starts = torch.randint(len(words) - self.length, (self.batch, 1), generator=drawn)
            tokens = words[starts + torch.arange(self.length)]
            with torch.autocast("cpu", torch.bfloat16):  # the weights stay float32
                loss = network(input_ids=tokens, labels=tokens, use_cache=False).loss
            optimizer.zero_grad()
            (loss + sparseout.penalty(network) if has_penalty else loss).backward()
            optimizer.step()
            if target:
                target.step()

    @torch.no_grad()
    def evaluate(self, network: Any) -> dict[str, float]:
        """Return the test loss in nats a word, and the perplexity."""
        losses = [network(input_ids=batch, labels=batch, use_cache=False).loss.item() for batch in self.samples()]
        loss = sum(losses) / len(losses)
        return {"test_loss": loss, "perplexity": float(torch.tensor(loss).exp())}

    def hidden(self, network: Any) -> list[nn.Module]:
        """Return the layers that read the zeros."""
        return [block.fc2 for block in network.model.decoder.layers]

    def samples(self) -> list[Tensor]:
        """Return the batches on which the zeros are counted and the loss is averaged."""
        words = self._corpus().test[: 160 * self.length].view(-1, self.length)
        return list(words.split(16))

    def drop(self, network: Any) -> Any:
        """Return the report of `drop_dead` on training text."""
        words = self._corpus().train[: 640 * self.length].view(-1, self.length)
        return drop_dead(network, [{"input_ids": batch, "use_cache": False} for batch in words.split(16)])

    def timed(self) -> list[Tensor]:
        """Return the prompts of the timed calls."""
        words = self._corpus().test[200 : 200 + TIMED * self.length].view(TIMED, self.length)
        return list(words[:, :PROMPT].split(1))

    def call(self, network: Any, input: Tensor) -> Tensor:
        """Continue one prompt."""
        tokens: Tensor = network.generate(
            input, attention_mask=torch.ones_like(input), do_sample=False, max_new_tokens=self.new_tokens
        )
        return tokens

    def _opt(self, seed: int) -> Any:
        from transformers import OPTConfig, OPTForCausalLM

        torch.manual_seed(seed)
        config = OPTConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden_size,
            word_embed_proj_dim=self.hidden_size,
            ffn_dim=self.ffn_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden_size // 64,
            max_position_embeddings=2 * self.length,
            activation_function="relu",
            dropout=0.0,
            bos_token_id=0,
            pad_token_id=0,
            eos_token_id=None,  # each call generates equally many words
        )
        return OPTForCausalLM(config)

    def _corpus(self) -> text.Corpus:
        return _words(self.vocabulary)


@functools.cache
def _words(vocabulary: int) -> text.Corpus:
    """Return the corpus with its most frequent words only; the last index stands for all others."""
    corpus = text.load("english")
    parts = [part.clamp_max(vocabulary - 1) for part in (corpus.train, corpus.valid, corpus.test)]
    return text.Corpus((*corpus.vocabulary[: vocabulary - 1], text.UNK), *parts)


@functools.lru_cache(maxsize=2)
def _common_part(study: Transformer, seed: int) -> dict[str, Tensor]:
    """Return the weights after the common part of the training."""
    network = study.build("none", seed)
    study._train(network, study.first_steps, seed)
    return network.state_dict()
