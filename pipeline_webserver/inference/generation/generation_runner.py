"""A pipeline whose model generates step by step: preprocessing, steps, and the start that finds out whether it can.

Plain blocking calls: `preprocess` may run in one thread while `step` or `run` runs in another. It must never know
requests, queues or HTTP.
"""

import logging
import time
from collections.abc import Sequence

import torch

from pipeline_webserver.errors import PipelineServerError, first_line
from pipeline_webserver.inference.generation.engine import GenerationEngine
from pipeline_webserver.inference.generation.generations import GeneratedSequence, Generation
from pipeline_webserver.inference.generation.packed_attention import Chunk
from pipeline_webserver.inference.generation.step_model import NotSteppable, StepModel
from pipeline_webserver.inference.memory import available_bytes
from pipeline_webserver.inference.model_inputs import Heartbeat, RawInput, no_heartbeat
from pipeline_webserver.inference.numerics import tolerance_of
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.base import or_input_error

logger = logging.getLogger(__name__)

# The part of the available memory that keys and values may take, and their room where the system does not say.
CACHE_SHARE = 0.5
DEFAULT_CACHE_TOKENS = 65_536
# Words of the prompts that steps are verified on, each joining two steps after the one before; what follows each.
PROBE_WORDS = (5, 40, 1, 18)
PROBE_TOKENS = 6
PROBE_CHUNK = 16
# Tokens of the step that is timed beside one of a single token.
MEASURED_TOKENS = 64
MEASURED_ROUNDS = 5


class GenerationRunner:
    """The steps of a pipeline that is warmed up. Raises `NotSteppable` where they would not give its results."""

    def __init__(self, runner: PipelineRunner, max_cache_tokens: int | None = None) -> None:
        self.runner = runner
        if runner.forward.state.changed:
            raise NotSteppable("a pass changes the model itself")
        self.engine = GenerationEngine(
            runner.pipe, StepModel(runner.pipe.model), runner.postprocess_one, runner.preprocess.max_tokens
        )
        with torch.inference_mode():
            self._verify()
            self.fixed_cost_tokens = self._measure_cost()
            self.max_cache_tokens = max_cache_tokens or self._cache_tokens()

    def preprocess(
        self, inputs: Sequence[RawInput], heartbeat: Heartbeat = no_heartbeat
    ) -> list[Generation | PipelineServerError]:
        """Check and prepare each input by itself: ready to be generated from, or its own error."""
        prepared = self.runner.preprocess(inputs, heartbeat)
        return [
            item if isinstance(item, PipelineServerError) else or_input_error(self.engine.prepare, item)
            for item in prepared
        ]

    def step(
        self,
        work: Sequence[tuple[GeneratedSequence, int]],
        released: Sequence[Generation],
        heartbeat: Heartbeat = no_heartbeat,
    ) -> None:
        """Forget the inputs that are `released`, and compute so many pending tokens of each sequence.

        Raises `Unavailable` when the model works for no input at all.
        """
        with torch.inference_mode():
            for generation in released:
                self.engine.release(generation)
            failed = self.engine.step(work, heartbeat) if work else 0
        if failed and failed == len({sequence.generation for sequence, _ in work}):
            self.runner.check_alive()

    def run(self, batch: Sequence[Generation], heartbeat: Heartbeat = no_heartbeat) -> Sequence[object]:
        """Generate for inputs that cannot be generated from step by step, as the pipeline does."""
        return self.runner.run([generation.prepared for generation in batch], heartbeat)

    # The start

    def _verify(self) -> None:
        """Compare the scores of steps with those of the model's own pass. Raises `NotSteppable`."""
        try:
            difference = self._difference()
        except Exception as error:
            raise NotSteppable(f"its steps fail ({first_line(error)})") from error
        if not difference <= tolerance_of(self.runner.pipe.model.dtype):
            raise NotSteppable(f"its steps change the scores by {difference:.1g}")

    def _difference(self) -> float:
        """The worst difference of a score, relative to the largest: of prompts that join and leave at various steps."""
        model, cache = self.runner.pipe.model, self.engine.cache
        prompts = [self._prompt(words) for words in PROBE_WORDS]
        follow = torch.arange(PROBE_TOKENS, device=model.device) * 7 + 11
        texts = [torch.cat([prompt, follow % model.config.get_text_config().vocab_size]) for prompt in prompts]
        with self.runner.forward.state.kept():
            expected = [model(input_ids=text[None], use_cache=False).logits[0].float() for text in texts]
        worst = 0.0
        places = [(index * 2, text.tolist(), cache.reserve(len(text))) for index, text in enumerate(texts)]
        computed = [0] * len(texts)
        turn = 0
        while any(done < len(text) for done, text in zip(computed, texts, strict=True)):
            chosen, chunks = [], []
            for index, (joins, ids, slot) in enumerate(places):
                begin = computed[index]
                if turn >= joins and begin < len(ids):
                    prompt = len(ids) - PROBE_TOKENS
                    end = min(begin + PROBE_CHUNK, prompt) if begin < prompt else begin + 1
                    chunks.append(Chunk(slot, ids[begin:end], begin))
                    chosen.append((index, end))
            scores = self.engine.step_model.step(chunks) if chunks else ()
            for (index, end), found in zip(chosen, scores, strict=True):
                computed[index] = end
                own = expected[index][end - 1]
                worst = max(worst, float((found - own).abs().max() / own.abs().max()))
            turn += 1
        for _, _, slot in reversed(places):
            slot.arena.give_back(slot, 0)
        return worst

    def _prompt(self, words: int) -> torch.Tensor:
        """The tokens of a prompt, `[tokens]`."""
        ids = self.runner.warmup_input(words).model_inputs[0].tensors["input_ids"]
        prompt: torch.Tensor = ids[0].to(self.runner.pipe.device)
        return prompt

    def _measure_cost(self) -> float:
        """What a step costs besides its tokens, in tokens."""
        slot = self.engine.cache.reserve(2 * MEASURED_TOKENS)
        ids = self._prompt(MEASURED_TOKENS).tolist()
        ids = (ids * MEASURED_TOKENS)[:MEASURED_TOKENS]

        def fastest_s(tokens: int) -> float:
            times = []
            for _ in range(MEASURED_ROUNDS):
                started = time.perf_counter()
                self.engine.step_model.step([Chunk(slot, ids[:tokens], 0)]).sum().item()
                times.append(time.perf_counter() - started)
            return min(times)

        one_s, many_s = fastest_s(1), fastest_s(MEASURED_TOKENS)
        slot.arena.give_back(slot, 0)
        token_s = (many_s - one_s) / (MEASURED_TOKENS - 1)
        return one_s / token_s - 1 if token_s * MEASURED_TOKENS > one_s / MEASURED_TOKENS else float(MEASURED_TOKENS)

    def _cache_tokens(self) -> int:
        """How many tokens there is room for: never less than the longest sequence."""
        available = available_bytes(self.runner.pipe.device)
        if available is None:
            return DEFAULT_CACHE_TOKENS
        slot = self.engine.cache.reserve(1)
        self.engine.step_model.step([Chunk(slot, [0], 0)])
        bytes_per_token = slot.arena.bytes_per_token
        slot.arena.give_back(slot, 0)
        return int(CACHE_SHARE * available / bytes_per_token)


def generation_runner(runner: PipelineRunner, max_cache_tokens: int | None = None) -> GenerationRunner | None:
    """That of a pipeline whose model generates, if it can step by step. What keeps it from that is in its strategy."""
    if runner.task != "text-generation":
        return None
    started = time.perf_counter()
    try:
        found = GenerationRunner(runner, max_cache_tokens)
    except NotSteppable as reason:
        logger.warning("The model generates for inputs as a whole, not step by step: %s.", reason)
        runner.steps_reason = str(reason)
        return None
    logger.info(
        "Generates step by step, with room for %d tokens, checked in %.1f s.",
        found.max_cache_tokens,
        time.perf_counter() - started,
    )
    runner.in_steps = True
    return found
