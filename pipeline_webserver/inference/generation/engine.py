"""Generation step by step: each step computes tokens of many inputs, each with its own settings, ends and errors.

Every result equals `pipe(prompt, **parameters)`. Plain blocking calls, for the model's thread but for `prepare`. It
must never know requests, queues or HTTP.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.pipelines.base import Pipeline

from pipeline_webserver.inference.forward import is_out_of_memory
from pipeline_webserver.inference.generation.decoding import Choice, choose, is_end, prepare
from pipeline_webserver.inference.generation.generations import GeneratedSequence, Generation
from pipeline_webserver.inference.generation.kv_cache import KVCache, Slot
from pipeline_webserver.inference.generation.packed_attention import Chunk
from pipeline_webserver.inference.generation.step_model import StepModel
from pipeline_webserver.inference.model_inputs import Heartbeat, PreparedInput, no_heartbeat
from pipeline_webserver.telemetry import metrics

logger = logging.getLogger(__name__)

# From an input and its outputs, or the exception that it failed with, to its result.
Postprocess = Callable[[PreparedInput, Any], object]


class GenerationEngine:
    """The steps of one pipeline's model. No slot is longer than `max_length` tokens."""

    def __init__(
        self, pipe: Pipeline, step_model: StepModel, postprocess: Postprocess, max_length: int | None = None
    ) -> None:
        self.pipe = pipe
        self.step_model = step_model
        self.cache = KVCache(max_length)
        self._postprocess = postprocess
        self._by_slot: dict[Slot, GeneratedSequence] = {}

    def prepare(self, prepared: PreparedInput) -> Generation:
        """The input, ready to run. Raises what `generate` raises of its parameters."""
        (model_input,) = prepared.model_inputs
        prompt = prepare(self.pipe, model_input)
        if prompt.decoding is None:
            return Generation(prepared)
        generation = Generation(prepared, prompt.decoding, prompt.outputs)
        generation.sequences = [
            GeneratedSequence(generation, tokens, len(tokens)) for tokens in prompt.input_ids.tolist()
        ]
        for sequence in generation.sequences[1:]:  # the first one computes the prompt for all
            sequence.computed = sequence.prompt_tokens
        generation.cache_tokens = len(generation.sequences) * self.cache.slot_tokens(prompt.decoding.max_length)
        return generation

    def release(self, generation: Generation) -> None:
        """Forget the keys and values of an input."""
        for sequence in generation.sequences:
            slot, sequence.slot = sequence.slot, None
            if slot is not None:
                del self._by_slot[slot]
                last = self._by_slot.get(slot.arena.slots[-1])
                slot.arena.give_back(slot, last.computed if last is not None else 0)

    def step(self, work: Sequence[tuple[GeneratedSequence, int]], heartbeat: Heartbeat = no_heartbeat) -> int:
        """Compute so many pending tokens of each sequence, and choose the next one of those that have none left.

        An input has its `result` once all its sequences have ended. Returns how many inputs failed.
        """
        self.cache.tick()
        scores, errors = self._forward([self._chunk(*item) for item in work], heartbeat)
        failed = {work[row][0].generation: error for row, error in errors.items()}
        choices = {
            generation: choice_of(generation, places)
            for generation, places in self._due(work).items()
            if generation not in failed
        }
        choose(scores, list(choices.values()))
        for generation, choice in choices.items():
            if choice.error is not None:
                failed[generation] = choice.error
                continue
            for index, token in zip(choice.due, choice.tokens, strict=True):
                sequence = generation.sequences[index]
                sequence.tokens.append(token)
                sequence.is_ended = is_end(sequence.tokens, choice.decoding)
            if all(sequence.is_ended for sequence in generation.sequences):
                self._end(generation, None)
        for generation, error in failed.items():
            self._end(generation, error)
        return len(failed)

    def _due(self, work: Sequence[tuple[GeneratedSequence, int]]) -> dict[Generation, list[tuple[int, int]]]:
        """Of each input, its sequences that are due a token, and the rows of the scores that it is chosen by."""
        due: dict[Generation, list[tuple[int, int]]] = {}
        for row, (sequence, count) in enumerate(work):
            sequence.computed += count
            if sequence.pending_tokens:
                continue
            generation = sequence.generation
            places = due.setdefault(generation, [])
            if sequence.new_tokens:
                places.append((generation.sequences.index(sequence), row))
            else:
                self._share_prompt(generation)
                places += [(index, row) for index in range(len(generation.sequences))]
        return due

    def _chunk(self, sequence: GeneratedSequence, count: int) -> Chunk:
        begin = sequence.computed
        return Chunk(self._slot(sequence), sequence.tokens[begin : begin + count], begin)

    def _share_prompt(self, generation: Generation) -> None:
        """Copy what the first sequence of an input has computed for the others."""
        first, *others = generation.sequences
        for sequence in others:
            sequence.slot = self._slot(sequence)
            assert first.slot is not None, "its prompt is in it"
            first.slot.arena.copy(first.slot, sequence.slot, sequence.prompt_tokens)

    def _slot(self, sequence: GeneratedSequence) -> Slot:
        """The slot of a sequence, a new one at first."""
        if sequence.slot is None:
            decoding = sequence.generation.decoding
            assert decoding is not None, "it has sequences"
            sequence.slot = self.cache.reserve(decoding.max_length)
            self._by_slot[sequence.slot] = sequence
        return sequence.slot

    def _end(self, generation: Generation, error: Exception | None) -> None:
        """Set the result of an input, and free its slots."""
        if error is not None:  # whatever is in its slots
            for sequence in generation.sequences:
                sequence.is_ended = True
                if sequence.slot is not None:
                    sequence.slot.arena.clear(sequence.slot)
        self.release(generation)
        generation.result = self._postprocess(generation.prepared, error or outputs_of(generation))

    def _forward(self, chunks: Sequence[Chunk], heartbeat: Heartbeat) -> tuple[torch.Tensor, dict[int, Exception]]:
        """The scores behind each chunk `[chunks, vocabulary]`, and, by their index, the errors of those that fail.

        A step that fails is retried in halves, so that only those fail that fail alone.
        """
        try:
            return self.step_model.step(chunks), {}
        except Exception as error:
            if is_out_of_memory(error):
                metrics.OUT_OF_MEMORY.inc()
                error.__traceback__ = None  # it holds all that the step had computed
            if len(chunks) == 1:
                return torch.zeros(1, 1, device=self.pipe.device), {0: error}
            logger.warning("A step of %d sequences failed (%s); retrying its halves.", len(chunks), error)
        finally:
            heartbeat()
        middle = len(chunks) // 2
        halves = [self._forward(part, heartbeat) for part in (chunks[:middle], chunks[middle:])]
        width = max(scores.shape[1] for scores, _ in halves)
        scores = torch.cat([part.expand(-1, width) if part.shape[1] == 1 else part for part, _ in halves])
        return scores, halves[0][1] | {middle + index: error for index, error in halves[1][1].items()}


def choice_of(generation: Generation, places: Sequence[tuple[int, int]]) -> Choice:
    """Of the sequences of an input that are due a token: their indices, and the rows of their scores."""
    assert generation.decoding is not None, "it has sequences"
    due = [index for index, _ in places]
    ids = [generation.sequences[index].tokens for index in due]
    return Choice(generation.decoding, len(generation.sequences), due, [row for _, row in places], ids)


def outputs_of(generation: Generation) -> dict[str, Any]:
    """What the pipeline's forward pass returns, its sequences as long as the longest."""
    assert generation.decoding is not None, "it has sequences"
    longest = max(len(sequence.tokens) for sequence in generation.sequences)
    padded = [
        sequence.tokens + [generation.decoding.pad_id] * (longest - len(sequence.tokens))
        for sequence in generation.sequences
    ]
    return {**generation.outputs, "generated_sequence": torch.tensor([padded])}
