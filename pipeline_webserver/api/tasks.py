"""The tasks that are served, and everything that depends on which one it is: a task is one entry in `TASKS`.

Parameters are those of the task's official specification, as `huggingface_hub` ships it, that the pipeline has. It must
never know bytes, Starlette, the queue or the model: what runs a task is a string here, for `inference` to find.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from huggingface_hub import (
    AudioClassificationParameters,
    AutomaticSpeechRecognitionParameters,
    FeatureExtractionInput,
    FillMaskParameters,
    ImageClassificationParameters,
    ImageSegmentationParameters,
    ObjectDetectionParameters,
    TableQuestionAnsweringParameters,
    TextClassificationParameters,
    TextGenerationInputGenerateParameters,
    TokenClassificationParameters,
    ZeroShotClassificationParameters,
    ZeroShotImageClassificationParameters,
)
from pydantic import BaseModel

from pipeline_webserver.api import answers
from pipeline_webserver.api.answers import Answer
from pipeline_webserver.api.examples import PICTURE, tone
from pipeline_webserver.api.parameters import SAMPLING_PARAMETERS, parameters_model, same_names

# What an input is: a text, the bytes of a file, or a table with a question.
InputKind = Literal["text", "image", "audio", "table"]
# The optional dependencies, as a group of pyproject.toml, that reading such an input needs.
EXTRAS: Mapping[InputKind, str] = {"image": "media", "audio": "media", "table": "tables"}


@dataclass
class ImageFeatureExtractionParameters:
    """This task has no official specification; the pipeline has this one parameter."""

    pool: bool | None = None


@dataclass
class FeatureExtractionParameters(FeatureExtractionInput):
    """`huggingface_hub`'s client sends two more than its specification has; numbers are all that it reads."""

    dimensions: int | None = None
    encoding_format: Literal["float"] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One task: what it takes, what it answers, and what runs it.

    - `parameters`: names in `specification`, each with the pipeline's own name; with `parameters_at_root` they may
      stand beside the inputs, too. `parameters_model` is the pydantic model that checks them.
    - `answer`: of the JSON form. `example`: an input of that form; `{mask_token}` in a text stands for the model's.
      `example_parameters`: those that a request must have.
    - `preprocessor`: module and class within `pipeline_webserver.inference.preprocessing`.
    - `architectures`: the mappings of `transformers.models.auto.modeling_auto` whose classes are made for this task.
    - `accepts_pairs`: an input may be two texts. `accepts_empty`: a text may be empty.
    - `pooled`: the JSON form asks for what the model's sentence-transformers configuration makes of the output.
    - `reshape_output`: from the pipeline's output to the JSON form.
    - `always_list`: of a pipeline's output, whether the JSON form puts it into a list even for a single input.
    - `unwraps_one`: a list of one input is answered as that input alone.
    """

    specification: type
    parameters: Mapping[str, str]
    answer: Answer
    example: Any
    preprocessor: str
    architectures: tuple[str, ...] = ()
    input_kind: InputKind = "text"
    example_parameters: Mapping[str, Any] = field(default_factory=dict)
    accepts_pairs: bool = False
    accepts_empty: bool = True
    parameters_at_root: bool = False
    pooled: bool = False
    reshape_output: Callable[[Any], Any] = lambda output: output
    always_list: Callable[[Any], bool] = lambda output: False
    unwraps_one: bool = False
    parameters_model: type[BaseModel] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters_model", parameters_model(self.specification, self.parameters))

    @property
    def is_file(self) -> bool:
        """Whether an input is the bytes of a file."""
        return self.input_kind in {"image", "audio"}

    @property
    def extra(self) -> str | None:
        """The optional dependencies that the task needs, as a group of pyproject.toml."""
        return EXTRAS.get(self.input_kind)

    @property
    def max_body_bytes(self) -> int:
        """The limit of a body unless a setting replaces it: 16 MiB for files, 1 MiB otherwise."""
        return 2**24 if self.is_file else 2**20

    @property
    def required_parameters(self) -> list[str]:
        """Those that every request must have; a raw body cannot."""
        return [name for name, info in self.parameters_model.model_fields.items() if info.is_required()]

    def example_for(self, mask_token: str | None) -> Any:
        """The example, for a model with this mask token."""
        if mask_token is None or not isinstance(self.example, str):
            return self.example
        return self.example.replace("{mask_token}", mask_token)


def _labels_with_scores(output: Any) -> Any:
    pairs = zip(output["labels"], output["scores"], strict=True)
    return [{"label": label, "score": score} for label, score in pairs]


def _without_missing_scores(output: Any) -> Any:
    """Semantic segments have none; a client in JavaScript takes a number or nothing."""
    return [{name: value for name, value in segment.items() if value is not None} for segment in output]


TASKS = {
    "fill-mask": Task(
        FillMaskParameters,
        same_names("targets", "top_k"),
        answer=answers.PREDICTIONS,
        example="Paris is the {mask_token} of France.",
        preprocessor="fill_mask.FillMaskPreprocessor",
        architectures=("MODEL_FOR_MASKED_LM_MAPPING_NAMES",),
    ),
    "text-classification": Task(
        TextClassificationParameters,
        same_names("function_to_apply", "top_k"),
        answer=answers.LABELS,
        example="I like it.",
        preprocessor="text.TextClassificationPreprocessor",
        architectures=("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",),
        accepts_pairs=True,
        reshape_output=lambda output: output if isinstance(output, list) else [output],
        always_list=lambda output: True,
    ),
    "token-classification": Task(
        TokenClassificationParameters,
        same_names("aggregation_strategy", "ignore_labels", "stride"),
        answer=answers.ENTITIES,
        example="Ann lives in Ulm.",
        preprocessor="text.TokenClassificationPreprocessor",
        architectures=("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",),
    ),
    "feature-extraction": Task(
        FeatureExtractionParameters,
        {"truncate": "truncation"}
        | same_names("normalize", "prompt_name", "truncation_direction", "dimensions", "encoding_format"),
        answer=answers.VECTORS,
        example="a text",
        preprocessor="feature_extraction.FeatureExtractionPreprocessor",
        architectures=("MODEL_MAPPING_NAMES",),
        parameters_at_root=True,
        pooled=True,
        always_list=lambda output: output.ndim == 1,
    ),
    "zero-shot-classification": Task(
        ZeroShotClassificationParameters,
        same_names("candidate_labels", "hypothesis_template", "multi_label"),
        answer=answers.LABELS,
        example="The new phone has a better camera.",
        preprocessor="text.ZeroShotClassificationPreprocessor",
        example_parameters={"candidate_labels": ["technology", "sports"]},
        accepts_empty=False,
        reshape_output=_labels_with_scores,
        unwraps_one=True,  # the client in JavaScript takes no list of lists
    ),
    "text-generation": Task(
        TextGenerationInputGenerateParameters,
        SAMPLING_PARAMETERS | {"stop": "stop_sequence"} | same_names("repetition_penalty", "return_full_text", "seed"),
        answer=answers.TEXTS,
        example="Once upon a time",
        preprocessor="text_generation.TextGenerationPreprocessor",
        architectures=("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",),
    ),
    "table-question-answering": Task(
        TableQuestionAnsweringParameters,
        same_names("padding", "sequential", "truncation"),
        answer=answers.TABLE_ANSWER,
        example={"question": "How old is Bob?", "table": {"name": ["Ann", "Bob"], "age": ["31", "45"]}},
        preprocessor="table.TablePreprocessor",
        architectures=("MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES",),
        input_kind="table",
    ),
    "image-classification": Task(
        ImageClassificationParameters,
        same_names("function_to_apply", "top_k"),
        answer=answers.LABELS,
        example=PICTURE,
        preprocessor="image.ImagePreprocessor",
        architectures=("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",),
        input_kind="image",
    ),
    "object-detection": Task(
        ObjectDetectionParameters,
        same_names("threshold"),
        answer=answers.OBJECTS,
        example=PICTURE,
        preprocessor="image.ImagePreprocessor",
        architectures=("MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",),
        input_kind="image",
    ),
    "image-segmentation": Task(
        ImageSegmentationParameters,
        same_names("mask_threshold", "overlap_mask_area_threshold", "subtask", "threshold"),
        answer=answers.SEGMENTS,
        example=PICTURE,
        preprocessor="image.ImageSegmentationPreprocessor",
        architectures=(
            "MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES",
            "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
            "MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES",
            "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES",
        ),
        input_kind="image",
        reshape_output=_without_missing_scores,
    ),
    "image-feature-extraction": Task(
        ImageFeatureExtractionParameters,
        same_names("pool"),
        answer=answers.VECTORS,
        example=PICTURE,
        preprocessor="image.ImageFeatureExtractionPreprocessor",
        architectures=("MODEL_FOR_IMAGE_MAPPING_NAMES",),
        input_kind="image",
    ),
    "zero-shot-image-classification": Task(
        ZeroShotImageClassificationParameters,
        same_names("candidate_labels", "hypothesis_template"),
        answer=answers.LABELS,
        example=PICTURE,
        preprocessor="image.ZeroShotImageClassificationPreprocessor",
        architectures=("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",),
        input_kind="image",
        example_parameters={"candidate_labels": ["technology", "sports"]},
    ),
    "automatic-speech-recognition": Task(
        AutomaticSpeechRecognitionParameters,
        {"generation_parameters": "generate_kwargs"} | same_names("return_timestamps"),
        answer=answers.TRANSCRIPT,
        example=tone(),
        preprocessor="audio.SpeechPreprocessor",
        architectures=("MODEL_FOR_CTC_MAPPING_NAMES", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"),
        input_kind="audio",
    ),
    "audio-classification": Task(
        AudioClassificationParameters,
        same_names("function_to_apply", "top_k"),
        answer=answers.LABELS,
        example=tone(),
        preprocessor="audio.AudioPreprocessor",
        architectures=("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",),
        input_kind="audio",
    ),
}
