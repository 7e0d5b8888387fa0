"""Chat models and image-text-to-text models of transformers, in this process."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from PIL import ImageOps
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from ...extras import not_installed
from ..components import SynthesisError, TextModel, TextReply, TextRequest
from ..images import open_rgb
from ..settings import Settings
from .batches import Batches
from .pretrained import check_dtype, load_pretrained, loading, one_line

if TYPE_CHECKING:
    from llguidance import LLMatcher


# Prompts are padded to a multiple of this, and only prompts of one padded length share a batch. So the shapes that an
# item is computed in, and with them its last bits, depend on the item alone.
_LENGTH_STEP = 64
_CANDIDATES = 1024  # tokens that sampling chooses from; those after them are too rare to matter


@dataclass
class _Prompt:
    """A request ready for the model."""

    request: TextRequest
    inputs: dict[str, torch.Tensor]  # with one value a token: shape (1, padded length), padded on the left
    length: int  # tokens without the padding

    @property
    def shapes(self) -> tuple:
        """What the prompts of one batch have in common."""
        return tuple((name, tensor.shape) for name, tensor in self.inputs.items())


@dataclass
class _Picker:
    """A logits processor that picks the next token of every row itself, and rules out all others.

    `generate` takes neither random numbers nor a grammar for each row. `ended` says which rows have come to their end.
    """

    seeds: Sequence[int]
    grammars: Sequence["LLMatcher | None"]
    ends: Sequence[int]
    temperature: float
    top_p: float

    def __post_init__(self) -> None:
        self.randoms = [random.Random(seed) for seed in self.seeds]
        self.ended = [False] * len(self.seeds)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores that leave one token per row. Shapes: (rows, length so far), (rows, words) -> (rows, words)."""
        scores = scores.float()
        for row, grammar in enumerate(self.grammars):
            if grammar is not None and not self.ended[row]:
                scores[row].masked_fill_(~self._allowed(grammar, scores), -torch.inf)
        best = scores.topk(min(_CANDIDATES, scores.shape[1]), dim=1)  # counts NaN as the largest of all
        if best.values[:, 0].isnan().any():
            raise SynthesisError(
                "its scores of the next word are no numbers (NaN): set dtype: bfloat16 or float32, or fetch its "
                "weights again"
            )
        values, tokens = best.values.cpu().double(), best.indices.cpu()
        picked = torch.zeros(len(tokens), dtype=torch.long)
        if self.temperature > 0:
            upto = (values / self.temperature).softmax(dim=1).cumsum(dim=1)
            # All candidates up to the one with which their sum reaches top_p.
            kept = (upto < self.top_p).sum(dim=1).clamp(max=upto.shape[1] - 1)
            target = torch.tensor([[source.random()] for source in self.randoms]) * upto.gather(1, kept[:, None])
            picked = torch.minimum((upto <= target).sum(dim=1), kept)
        chosen = tokens.gather(1, picked[:, None])[:, 0].tolist()
        for row, token in enumerate(chosen):
            if self.ended[row]:
                continue
            self.ended[row] = token in self.ends
            if (grammar := self.grammars[row]) is not None and not self.ended[row]:
                grammar.consume_token(token)
        one = torch.full_like(scores, -torch.inf)
        one[range(len(chosen)), chosen] = 0.0
        return one

    def _allowed(self, grammar: "LLMatcher", scores: torch.Tensor) -> torch.Tensor:
        """Which tokens the grammar allows next. Shape: (words,)."""
        allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
        if grammar.is_stopped():
            allowed[list(self.ends)] = True
        else:
            # One byte per word of the tokenizer; models often have a few more words.
            bias = torch.frombuffer(bytearray(grammar.compute_logit_bias()), dtype=torch.uint8)[: len(allowed)]
            allowed[: len(bias)] = bias > 0
        return allowed.to(scores.device)


class LoadedChatModel(TextModel):
    """A model of transformers that answers in batches; `ChatModel` says what its settings mean."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        count_halving = partial(self.usage.update, {"batch halvings": 1})
        self.batches = Batches(settings.batch_size, self._too_little_memory, count_halving)
        where = {"pretrained_model_name_or_path": settings.model, "revision": settings.revision}
        with loading(settings.model, "as a chat model", 'Check "model" and "revision", or download it first'):
            config = AutoConfig.from_pretrained(**where)
            self.sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            self.processor = _load_processor(where, config) if self.sees else None
            self.tokenizer = self.processor.tokenizer if self.sees else AutoTokenizer.from_pretrained(**where)
        auto = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
        options = {"dtype": settings.dtype}
        options["device_map"] = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_pretrained(auto, settings.model, settings.revision, **options).eval()
        check_dtype(self.model, settings.dtype, settings.model)
        self.about = {
            "kind": settings.kind,
            "model": settings.model,
            "revision": getattr(config, "_commit_hash", None) or settings.revision,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }
        self.template = (self.processor and self.processor.chat_template) or self.tokenizer.chat_template
        if not self.template:
            raise SynthesisError(f"{settings.model}: has no chat template. Choose a model that was taught to chat.")
        self.takes_system = self._takes_system()
        self.ends, self.pad = self._ends()
        # The checkpoint's own settings (repetition penalty, top_k) are not part of the recipe.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.pad,
        )
        self._grammar_words = None

    def answer(self, requests: Iterable[TextRequest]) -> Iterator[TextReply]:
        """One reply per request, batch by batch; up to a batch of each padded length waits to be filled.

        Raises:
            SynthesisError: a single request does not fit into memory, an image cannot be read, the tokenizer cannot
                obey a schema, or the model computes NaN.
        """
        waiting: dict[tuple, list[_Prompt]] = defaultdict(list)
        for request in requests:
            prompt = self._prompt(request)
            if isinstance(prompt, TextReply):
                yield prompt
                continue
            batch = waiting[prompt.shapes]
            batch.append(prompt)
            if len(batch) >= self.batches.size:
                yield from self.batches.map(self._generate, waiting.pop(prompt.shapes))
        for batch in waiting.values():
            yield from self.batches.map(self._generate, batch)

    def _too_little_memory(self, prompt: _Prompt) -> SynthesisError:
        return SynthesisError(
            f"{self.settings.model}: memory is too small for one request of {prompt.length} tokens. Lower "
            "max_new_tokens or image_size, or choose a smaller model."
        )

    @torch.inference_mode()
    def _generate(self, rows: list[_Prompt]) -> Iterator[TextReply]:
        """The replies of one batch."""
        inputs = {name: torch.cat([row.inputs[name] for row in rows]).to(self.model.device) for name in rows[0].inputs}
        grammars = [self._grammar(row.request) for row in rows]
        settings = self.settings
        picker = _Picker([row.request.seed for row in rows], grammars, self.ends, settings.temperature, settings.top_p)
        try:
            output = self.model.generate(**inputs, logits_processor=[picker])
        except SynthesisError as error:
            raise SynthesisError(f"{settings.model}: {error}") from error
        written = output[:, inputs["input_ids"].shape[1] :].tolist()
        for prompt, tokens, ended, grammar in zip(rows, written, picker.ended, grammars, strict=True):
            yield self._reply(prompt, tokens, ended, grammar)

    def _reply(self, prompt: _Prompt, tokens: list[int], ended: bool, grammar: "LLMatcher | None") -> TextReply:
        """What one row says."""
        if ended:
            tokens = tokens[: next(place for place, token in enumerate(tokens) if token in self.ends)]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        self.usage["requests"] += 1
        self.usage["input tokens"] += prompt.length
        self.usage["output tokens"] += len(tokens)
        is_whole = ended or (grammar is not None and grammar.is_accepting())
        fault = None
        if grammar is not None and grammar.is_error():
            fault = f"its schema could not be followed ({one_line(grammar.get_error())})"
        elif not is_whole:
            fault = f"cut off at {self.settings.max_new_tokens} tokens"
        elif not text:
            fault = "an empty answer"
        return TextReply(prompt.request.id, text, fault, "stop" if is_whole else "length")

    def _prompt(self, request: TextRequest) -> _Prompt | TextReply:
        """The tensors of a request, or why it cannot be asked."""
        if request.images and not self.sees:
            raise SynthesisError(
                f"{self.settings.model}: cannot look at images, and item {request.id} has some. "
                "Choose an image-text-to-text model."
            )
        messages = [{"role": said["role"], "content": self._strip(said["content"])} for said in request.messages]
        text = self._render(messages, len(request.images))
        # The template has already written the tokens that mark the beginning.
        options = {"add_special_tokens": False, "return_tensors": "pt"}
        if self.sees:
            side = (self.settings.image_size, self.settings.image_size)
            images = [ImageOps.pad(open_rgb(image), side, color=(127, 127, 127)) for image in request.images]
            inputs = self.processor(text=[text], images=[images] if images else None, **options)
        else:
            inputs = self.tokenizer([text], return_token_type_ids=False, **options)
        length = inputs["input_ids"].shape[1]
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and length + self.settings.max_new_tokens > room:
            fault = f"the model reads {room} tokens, too few for a prompt of {length}"
            return TextReply(request.id, "", fault, None)
        padded = {}
        for name, tensor in inputs.items():
            if tensor.shape == inputs["input_ids"].shape:
                fill = self.pad if name == "input_ids" else 0
                tensor = torch.nn.functional.pad(tensor, (-length % _LENGTH_STEP, 0), value=fill)
            padded[name] = tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor
        return _Prompt(request, padded, length)

    def _strip(self, text: str) -> str:
        """The text without control tokens, which act anywhere in it; removing one may form another."""
        control = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        while any(token in text for token in control):
            for token in control:
                text = text.replace(token, "")
        return text

    def _render(self, messages: list[dict[str, str]], images: int) -> str:
        """The conversation in the model's own words, up to where its answer begins."""
        if not self.takes_system and messages[0]["role"] == "system":
            system, first, *rest = messages
            messages = [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]
        if self.sees:
            parts = [[{"type": "text", "text": message["content"]}] for message in messages]
            parts[-1] = [{"type": "image"}] * images + parts[-1]
            messages = [message | {"content": part} for message, part in zip(messages, parts, strict=True)]
        # Models that think aloud would spend the tokens before the answer; other templates ignore the option.
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )

    def _takes_system(self) -> bool:
        """Whether the template knows system messages (Gemma 2's template, for example, refuses them)."""
        self.takes_system = True
        try:
            self._render([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], 0)
        except TemplateError:
            return False
        return True

    def _ends(self) -> tuple[list[int], int]:
        """The tokens that end an answer, and the one for padding."""
        ends = self.model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or ())
        if self.tokenizer.eos_token_id not in [None, *ends]:
            ends.append(self.tokenizer.eos_token_id)
        if not ends:
            raise SynthesisError(f"{self.settings.model}: names no token that ends an answer (eos_token).")
        pad = self.tokenizer.pad_token_id
        return ends, ends[0] if pad is None else pad

    def _grammar(self, request: TextRequest) -> "LLMatcher | None":
        """What makes an answer follow its schema, from the start of the answer."""
        if request.schema is None:
            return None
        try:
            from llguidance import LLMatcher
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise SynthesisError(str(not_installed("llguidance", "answers by a schema need it"))) from error
        if self._grammar_words is None:
            try:
                self._grammar_words = from_tokenizer(self.tokenizer, eos_token=self.ends)
            except ValueError as error:
                raise SynthesisError(
                    f"{self.settings.model}: its tokenizer cannot obey a schema ({one_line(error)}). Choose another "
                    "model."
                ) from error
        # With free white space a model could go on writing it for ever.
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(request.schema),
            overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
        )
        return LLMatcher(self._grammar_words, grammar, log_level=0)


def _load_processor(where: dict[str, Any], config: Any) -> Any:
    """Tokenizer and image processor in one.

    Several families (Qwen-VL, InternVL, SmolVLM) also require torchvision, for videos. They see none here, so their
    processor is put together without that part.
    """
    try:
        return AutoProcessor.from_pretrained(**where)
    except ImportError:
        family = PROCESSOR_MAPPING[type(config)]
        options, _ = family.get_processor_dict(**where)

    class WithoutVideos(family):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    parts = [AutoImageProcessor.from_pretrained(**where), AutoTokenizer.from_pretrained(**where)]
    return WithoutVideos.from_args_and_dict(parts, {**options, "video_processor": None})
